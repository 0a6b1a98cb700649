"""Parts of the three scripts: each module is a noun of the domain. Importing one reads no file and opens no socket."""
