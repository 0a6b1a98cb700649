"""Parts of the three scripts: each module is a noun of the domain. Importing one reads no file and opens no socket."""

import sys

# Where peft is installed, transformers imports it with the Trainer, which takes a second, and asks the Hub for an
# adapter beside every checkpoint. None makes it a package that is not there; `hf_utils.models.adapters` takes it back.
sys.modules.setdefault("peft", None)
