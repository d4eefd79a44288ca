from . import brax as brax
from . import craftax as craftax
from . import dm_control as dm_control
from . import gymnasium as gymnasium
from . import gymnax as gymnax
from . import pgx as pgx
from . import playground as playground
