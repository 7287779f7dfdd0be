"""Learning: the LightningModule, the LightningDataModule and what they are made of."""
