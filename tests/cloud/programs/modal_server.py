"""A server that takes what `modal deploy` sends, and writes it down: ``modal_server.py PORT_FILE REQUESTS_FILE``.

Every call is answered with an empty reply whose identifiers are filled in. Nothing runs.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from grpclib.const import Handler
from grpclib.server import Server, Stream
from modal_proto import api_grpc, api_pb2

IDS = {
    "app_id": "ap-1", "client_id": "cl-1", "deployment_id": "de-1", "dict_id": "di-1", "environment_id": "en-1",
    "function_id": "fu-1", "image_id": "im-1", "mount_id": "mo-1", "volume_id": "vo-1",
}  # fmt: skip


BUILDER = "2025.06"  # a release of the images that Modal makes


def reply(kind: Any, request: Any) -> Any:
    answer = kind()
    fields = answer.DESCRIPTOR.fields_by_name
    for name in IDS.keys() & fields.keys():
        setattr(answer, name, IDS[name])
    match kind:
        case api_pb2.ImageGetOrCreateResponse:
            answer.result.status = api_pb2.GenericResult.GENERIC_STATUS_SUCCESS
            answer.metadata.image_builder_version = BUILDER
        case api_pb2.EnvironmentGetOrCreateResponse:
            answer.metadata.settings.image_builder_version = BUILDER
        case api_pb2.FunctionPrecreateResponse:
            answer.handle_metadata.function_name = request.function_name
        case api_pb2.FunctionCreateResponse:
            answer.handle_metadata.function_name = request.function.function_name
            answer.function_data.ranked_functions.add().function.CopyFrom(request.function)
    return answer


def handlers(requests: Any) -> dict[str, Handler]:
    def handler(path: str, real: Handler) -> Handler:
        async def answer(stream: Stream[Any, Any]) -> None:
            request = await stream.recv_message()
            line = {"call": path.rpartition("/")[2], **MessageToDict(request, preserving_proto_field_name=True)}
            print(json.dumps(line), file=requests, flush=True)
            await stream.send_message(reply(real.reply_type, request))

        return Handler(answer, *real[1:])

    class Nothing(api_grpc.ModalClientBase):
        pass

    Nothing.__abstractmethods__ = frozenset()
    return {path: handler(path, real) for path, real in Nothing().__mapping__().items()}


class Service:
    def __init__(self, requests: Any) -> None:
        self._handlers = handlers(requests)

    def __mapping__(self) -> dict[str, Handler]:
        return self._handlers


async def main(port_file: Path, requests: Path) -> None:
    with requests.open("w", encoding="utf-8") as file:
        server = Server([Service(file)])
        await server.start("127.0.0.1", 0)
        port = server._server.sockets[0].getsockname()[1]
        fresh = port_file.with_suffix(".new")
        fresh.write_text(str(port))
        fresh.rename(port_file)
        await server.wait_closed()


asyncio.run(main(*map(Path, sys.argv[1:])))
