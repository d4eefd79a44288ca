from . import agent as agent
from . import controller as controller
