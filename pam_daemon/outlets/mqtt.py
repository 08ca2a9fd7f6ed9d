"""Records to an MQTT broker: QoS 1, a topic `PREFIX/<kind>/<station>/<stream>`, and whether the station is online.

`PREFIX/status/<station>` is `online`, retained, while the bridge is connected, and `offline` by its last will. paho's
client runs on the bridge's own thread; its queue and its reconnecting are not used, the journal and the bridge do that.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import msgspec
from paho.mqtt.client import Client, MQTTv5, MQTTv311, error_string
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.reasoncodes import ReasonCode

from pam_daemon.config import Mqtt
from pam_daemon.errors import ConfigError
from pam_daemon.outlets.bridge import Undelivered
from pam_daemon.outlets.secret import read_secret, tls_context
from pam_daemon.records import Wire, topic

_KEEP_ALIVE_S = 20  # a broker that is silent longer has gone; what a handshake may take, too
_LOOK_S = 0.5


class MqttOutlet:
    """A broker; its PUBACK takes a record.

    Raises:
        ConfigError: a password or certificates that cannot be used.
    """

    def __init__(self, choice: Mqtt, station: str) -> None:
        self._choice = choice
        self._port = choice.port or (8883 if choice.tls else 1883)
        self._identity = f"pamd-{station}-{choice.name}"
        self._status_topic = f"{choice.prefix}/status/{station}"
        self._tls = tls_context(choice.ca_file, f"bridge {choice.name}") if choice.tls else None
        self._password()
        self._client: Client | None = None
        self._answer: ReasonCode | None = None  # the last that the broker gave

    def send(self, wire: Wire) -> None:
        name = f"{self._choice.prefix}/{topic(wire).decode()}"
        retain = self._choice.retain and wire["mode"] != "drill"  # newcomers want the last of what was real
        self._publish(self._connected(), name, msgspec.json.encode(wire), retain=retain)

    def idle(self) -> None:
        """Answer the broker, and notice that it has gone."""
        client = self._connected()
        self._check(client.loop(0))

    def reach(self) -> str:
        client = self._open()
        client.disconnect()
        self._let_go()
        return f"{self._choice.host}:{self._port}: lets us in"

    def close(self) -> None:
        if self._client is not None:
            with suppress(Undelivered):
                self._publish(self._client, self._status_topic, b"offline", retain=True)
                self._client.disconnect()  # asks for no last will
        self._let_go()

    def _connected(self) -> Client:
        if self._client is not None:
            return self._client
        client = self._open()
        self._publish(client, self._status_topic, b"online", retain=True)
        return client

    def _open(self) -> Client:
        choice = self._choice
        client = self._client = Client(
            CallbackAPIVersion.VERSION2,
            self._identity,
            protocol=MQTTv5 if choice.version == 5 else MQTTv311,
            reconnect_on_failure=False,
        )
        client.connect_timeout = choice.timeout_s
        client.on_connect = self._take_answer
        client.on_publish = self._take_answer
        client.will_set(self._status_topic, b"offline", qos=1, retain=True)
        try:
            if choice.user is not None:
                client.username_pw_set(choice.user, self._password())
            if self._tls is not None:
                client.tls_set_context(self._tls)
            client.connect(choice.host, self._port, _KEEP_ALIVE_S)
        except (OSError, ValueError, ConfigError) as error:
            raise self._gone(str(error)) from error
        self._await_answer(client)
        return client

    def _publish(self, client: Client, name: str, payload: bytes, *, retain: bool) -> None:
        self._answer = None
        self._check(client.publish(name, payload, qos=1, retain=retain).rc)
        self._await_answer(client)

    def _await_answer(self, client: Client) -> None:
        """Of the broker, to what was asked last."""
        end_s = time.monotonic() + self._choice.timeout_s
        while self._answer is None:
            if time.monotonic() > end_s:
                raise self._gone("no answer")
            code = client.loop(_LOOK_S)
            if self._answer is None:  # what the broker says tells more
                self._check(code)
        if self._answer.is_failure:
            raise self._gone(str(self._answer))

    def _take_answer(self, *arguments: Any) -> None:
        """paho's callbacks end with the reason code and the properties."""
        self._answer = arguments[-2]

    def _check(self, code: MQTTErrorCode) -> None:
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise self._gone(error_string(code))

    def _gone(self, why: str) -> Undelivered:
        self._let_go()
        return Undelivered(f"{self._choice.host}:{self._port}: {why}")

    def _let_go(self) -> None:
        """Without a word where the broker does not answer: it then tells the last will."""
        client, self._client, self._answer = self._client, None, None
        if client is not None and (socket := client.socket()) is not None:
            socket.close()

    def _password(self) -> str | None:
        path = self._choice.password_file
        return None if path is None else read_secret(path, f"bridge {self._choice.name}: password_file")
