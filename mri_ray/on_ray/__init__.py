"""Ray at the edge: jobs and what their workers run."""

import gc

# Every process of a job imports torch and Ray, whose objects stay: at Python's threshold of 700 the collector goes
# through them so often that it takes a sixth of the processor time of that.
gc.set_threshold(10_000, 10, 10)
