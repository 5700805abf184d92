"""Raw recordings from DANDI and published checkpoints from Zenodo: resumable, checked, safely unpacked."""
