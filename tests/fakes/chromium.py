"""A headless Chromium, controlled over its debugging pipe without any other package."""

import base64
import json
import os
import select
import shutil
import subprocess
import time

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")


class Browser:
    """One page. ``do``: a command of the DevTools protocol; ``js``: an expression's value."""

    def __init__(self, folder, width=1280, height=900):
        here, there = os.pipe(), os.pipe()  # its 3 reads what we write, its 4 writes what we read

        def arrange():
            for wanted, handle in ((20, here[0]), (21, there[1])):
                os.dup2(handle, wanted)
            os.dup2(20, 3)
            os.dup2(21, 4)

        self.process = subprocess.Popen(
            [PROGRAM, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
             "--no-first-run", f"--user-data-dir={folder}/profile",
             f"--window-size={width},{height}", "about:blank"],
            preexec_fn=arrange, close_fds=False, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        os.close(here[0])
        os.close(there[1])
        self.write, self.read = here[1], there[0]
        self.number, self.rest, self.session = 0, b"", None
        page = next(target for target in self.do("Target.getTargets")["targetInfos"]
                    if target["type"] == "page")
        self.session = self.do("Target.attachToTarget", targetId=page["targetId"],
                               flatten=True)["sessionId"]
        self.do("Page.enable")

    def do(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + 240
        while True:
            while b"\0" not in self.rest:
                assert select.select([self.read], [], [], end - time.monotonic())[0], method
                self.rest += os.read(self.read, 1 << 20)
            text, _, self.rest = self.rest.partition(b"\0")
            answer = json.loads(text)
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]

    def js(self, expression):
        answer = self.do("Runtime.evaluate", expression=expression, returnByValue=True,
                         awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def open(self, address):
        self.do("Page.navigate", url=address)
        self.until("document.body && document.body.dataset.ready")

    def until(self, expression, seconds=240):
        end = time.monotonic() + seconds
        while not self.js(expression):
            assert time.monotonic() < end, expression
            time.sleep(0.02)

    def press(self, key, text=None):
        """A key as a person presses it."""
        codes = {"Tab": 9, "Enter": 13, " ": 32, "ArrowRight": 39, "ArrowLeft": 37, "/": 191}
        text = text if text is not None else {"Enter": "\r", " ": " "}.get(
            key, key if len(key) == 1 else "")
        for kind in ("keyDown", "keyUp"):
            self.do("Input.dispatchKeyEvent", type=kind, key=key, code=key,
                    windowsVirtualKeyCode=codes.get(key, ord(key[0].upper())),
                    **({"text": text} if text and kind == "keyDown" else {}))

    def screenshot(self, path):
        path.write_bytes(base64.b64decode(self.do("Page.captureScreenshot")["data"]))

    def close(self):
        self.process.terminate()
        self.process.wait()
        os.close(self.write)
        os.close(self.read)
