from . import gymnax as gymnax
from . import pgx as pgx
