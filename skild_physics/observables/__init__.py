"""Physics of an ensemble of fields, with error bars."""
