"""`jupyter gpu-reclaim doctor`: tries out on the user's own machine what this product promises."""
