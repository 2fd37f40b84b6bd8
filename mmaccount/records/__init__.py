"""What a run is, what a plan promises and what a ledger has charged: values and files, standard
library only."""
