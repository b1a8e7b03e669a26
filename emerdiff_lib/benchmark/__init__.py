"""What the method costs: a reference point, a cost model, and measurements of time, memory and quality side by side."""
