from . import dm_control as dm_control
from . import gymnasium as gymnasium
from . import gymnax as gymnax
from . import pgx as pgx
