"""`jupyter gpu-reclaim plan`: a team's cells replayed in virtual time through the product's own decisions."""
