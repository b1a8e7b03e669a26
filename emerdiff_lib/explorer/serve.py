"""Voilà, opened with its token; run by its path, so that nothing of the library is in memory beside the kernels."""

import webbrowser

from voila.app import Voila


class Application(Voila):
    def launch_browser(self):
        webbrowser.open(f"{self.connection_url}?token={self.identity_provider.token}")


if __name__ == "__main__":
    Application.launch_instance()
