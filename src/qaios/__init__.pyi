from qaios.client.http import Client as Client
from qaios.client.notebook import Mission as Mission
from qaios.client.sync import SyncClient as SyncClient
from qaios.client.tasks import task as task
from qaios.system.config import Settings as Settings
from qaios.system.system import System as System

__version__: str
