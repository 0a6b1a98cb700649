"""Any source of clips -> clip table -> splits -> decoded waveforms -> windows."""
