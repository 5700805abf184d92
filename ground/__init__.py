"""What every package stands on and none of them is about: errors, exit codes, whole files, folders."""
