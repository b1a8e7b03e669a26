"""What the method costs: a naive implementation, a cost model, and measurements of time, memory and quality side by side."""
