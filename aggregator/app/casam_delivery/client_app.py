"""No handlers: a site answers with those of its own installation (site_client.node), and only where it allows this app."""

from flwr.clientapp import ClientApp

app = ClientApp()
