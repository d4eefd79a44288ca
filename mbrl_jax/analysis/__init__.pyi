from . import curves as curves
from . import flops as flops
from . import imagination as imagination
from . import labels as labels
from . import mazes as mazes
from . import profile as profile
from . import search_trees as search_trees
from . import statistics as statistics
