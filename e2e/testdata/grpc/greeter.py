import os
from concurrent import futures

import grpc


def hello(request, context):
    said = dict(context.invocation_metadata())
    context.set_trailing_metadata((('answer_id.v1', 'done'), ('raw_data-bin', b'\x00\xff')))
    return b'hello %s: %s %r' % (request, said['request_id.v1'].encode(), said['trace_data-bin'])


def chat(requests, context):
    for r in requests:
        yield b'echo ' + r


def fail(request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, 'not now')


METHODS = {
    '/shop.Greeter/Hello': grpc.unary_unary_rpc_method_handler(hello),
    '/shop.Greeter/Chat': grpc.stream_stream_rpc_method_handler(chat),
    '/shop.Greeter/Fail': grpc.unary_unary_rpc_method_handler(fail),
}


class Greeter(grpc.GenericRpcHandler):
    def service(self, details):
        return METHODS.get(details.method)


server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((Greeter(),))
server.add_insecure_port('unix:' + os.environ['LIEGE_SOCKET'])
server.start()
server.wait_for_termination()
