"""Names that configurations, results and requests use, with what is known of them without torch."""

PRIMARY_METRIC = "inception_score"
