"""Image quality against training: the models that a run keeps, measured one after another.

    python paper_figures/over_training.py RUN TRUTH [--metrics fid,is] [--samples 50000]

A run keeps models with training.keep_every. Each makes fields from noise or, with --factor, makes
those of TRUTH again; eval-images measures them, and NAME.nc and NAME.png show every metric against
the training step. Fields and results of each step stay beside them, so that the same command goes
on where it was interrupted.
"""

from pathlib import Path

import click
import xarray as xr

import skild_physics as sk
from skild_physics.claims import replacing
from skild_physics.plots import Figure, save_figure
from skild_physics.quality.metrics import METRICS


def checkpoints(run: Path) -> list[Path]:
    """Models of a run, in the order of their steps, the last one once."""
    kept = sorted((run / "kept").glob("*.safetensors"))
    last = run / "model.safetensors"
    trained = {sk.load(path).trained_steps for path in kept}
    return kept if sk.load(last).trained_steps in trained else [*kept, last]


def over_training(
    run: Path,
    truth: str,
    *,
    out: Path,
    metrics: tuple[str, ...] = ("fid", "is"),
    samples: int,
    factor: float | None = None,
    steps: int = 20,
    choose_seed: int | None = None,
    rounding: str = "nearest",
    weights: Path | None = None,
) -> xr.Dataset:
    """Values and standard errors of metrics (step,), of every model that a run keeps.

    Args:
        run: folder of the training.
        truth: pictures that were not trained on.
        out: file of the results; fields and results of each step go into a folder of its name.
        metrics: of eval-images.
        samples: fields of each model.
        factor: make pictures of the truth again from so many times fewer pixels; None: from noise.
        steps: evaluations of the network per field.
        choose_seed: choose pictures of the truth at random.
        rounding: of fields to bytes.
        weights: folder of the networks' weights.
    """
    made = out.with_suffix("")
    made.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[float]] = {}
    trained = []
    held = sk.open(truth, samples=samples, choose_seed=choose_seed) if factor else truth
    for path in checkpoints(run):
        model = sk.load(path)
        trained.append(model.trained_steps)
        fields = made / f"{model.trained_steps:07}.h5"
        how = {"sampler": sk.Multistep(steps), "out": fields, "progress": sk.bar}
        if factor:
            model.reconstruct(held, factor, **how)
        else:
            model.generate(samples, **how)
        quality = sk.eval_images(
            {"truth": held, "made": fields},
            metrics=metrics,
            rounding=rounding,
            weights=weights,
            out=fields.with_suffix(".nc"),
            progress=sk.bar,
        )
        for row in quality.rows:
            if row.source == "made":
                found.setdefault(row.metric, []).append(row.value)
                found.setdefault(f"{row.metric}_stderr", []).append(row.stderr or float("nan"))
    results = xr.Dataset(
        {name: ("step", values) for name, values in found.items()},
        coords={"step": trained},
        attrs={
            "schema": "skild_physics.over_training",
            "package_version": sk.__version__,
            "metrics": list(metrics),
            "samples": samples,
            "evaluations": steps,
            "factor": factor or 0.0,
        },
    )
    with replacing(out) as temporary:
        results.to_netcdf(temporary, engine="h5netcdf")
    return results


def draw(results: xr.Dataset) -> Figure:
    """Every metric against the training step, one below the other."""
    names = [name for name in METRICS if name in results]
    figure = Figure(figsize=(6, 1 + 1.8 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), sharex=True, squeeze=False)[:, 0]
    for name, ax in zip(names, panels, strict=True):
        ax.errorbar(
            results["step"],
            results[name],
            results[f"{name}_stderr"].fillna(0),
            fmt="o-",
            markersize=4,
            linewidth=1,
            color="#0072b2",
        )
        ax.set_ylabel(METRICS[name].title)
    ax.set_xlabel("training step")
    return figure


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True))
@click.argument("truth")
@click.option("--metrics", default="fid,is", show_default=True, help="Of eval-images.")
@click.option("--samples", default=50_000, show_default=True, help="Fields of each model.")
@click.option("--factor", type=float, help="Make TRUTH again from so many times fewer pixels.")
@click.option("--steps", default=20, show_default=True, help="Evaluations per field.")
@click.option("--choose-seed", type=int, help="Choose pictures of TRUTH at random.")
@click.option("--rounding", default="nearest", show_default=True, help="Of fields to bytes.")
@click.option("--weights", type=click.Path(path_type=Path), help="Folder of networks' weights.")
@click.option("--out", type=click.Path(path_type=Path), default="over_training.nc")
def main(run: Path, truth: str, out: Path, metrics: str, **how: object) -> None:
    results = over_training(run, truth, out=out, metrics=tuple(metrics.split(",")), **how)
    print(results.to_dataframe().to_string())
    save_figure(draw(results), out.with_suffix(".png"))


if __name__ == "__main__":
    main()
