"""What the programs that lie beside exports are made of."""
