from . import brax as brax
from . import craftax as craftax
from . import gymnax as gymnax
from . import pgx as pgx
from . import playground as playground
