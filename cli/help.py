"""Help of a command, its options under headings."""

import click

_HEADINGS = {
    "Sampling": (
        *("n_evals", "sampler", "order", "spacing", "last_snr", "snr_threshold", "precision"),
        *("batch_size", "start"),
    ),
    "Fields": (
        *(
            "samples",
            "choose_seed",
            "size",
            "tile",
            "resize",
            "grey",
            "strict",
            "data_dir",
            "L",
            "dims",
        ),
        *("data_range", "beta", "boundary", "basis", "variance_map", "n_samples", "model"),
    ),
    "Output": ("out", "start_out", "plot", "csv", "overwrite", "as_json"),
    "Machine": ("workers", "scheduler"),
}
_HEADING_OF = {name: heading for heading, names in _HEADINGS.items() for name in names}


class Command(click.Command):
    """A command whose own options come first in its help, then those that others share."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, each heading with its own."""
        headings = ("Required", "Options", *_HEADINGS)
        found: dict[str, list[tuple[str, str]]] = {heading: [] for heading in headings}
        for each in self.get_params(ctx):
            record = each.get_help_record(ctx)
            if record is None or not record[1]:
                continue
            heading = _HEADING_OF.get(str(each.name), "Options")
            found["Required" if each.required else heading].append(record)
        for heading, records in found.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)
