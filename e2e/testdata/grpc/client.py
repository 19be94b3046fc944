"""Calls the greeter at sys.argv[1], whose certificate is sys.argv[2]."""
import queue
import sys

import grpc

with open(sys.argv[2], 'rb') as f:
    credentials = grpc.ssl_channel_credentials(f.read())
channel = grpc.secure_channel('ipv4:' + sys.argv[1], credentials, (('grpc.ssl_target_name_override', 'localhost'),))

answer, call = channel.unary_unary('/shop.Greeter/Hello').with_call(
    b'you', timeout=60, metadata=(('request_id.v1', '7'), ('trace_data-bin', b'\x00\x01')))
print(answer.decode(), [(m.key, m.value) for m in call.trailing_metadata()])

# Both sides speak in turn while neither has ended.
wishes = queue.Queue()
answers = channel.stream_stream('/shop.Greeter/Chat')(iter(wishes.get, None), timeout=60)
for word in (b'one', b'two', b'x' * 1000000):
    wishes.put(word)
    print(len(next(answers)))
wishes.put(None)
print(list(answers), answers.code().name)

for method in ('/shop.Greeter/Fail', '/shop.Greeter/None'):
    try:
        channel.unary_unary(method)(b'', timeout=60)
    except grpc.RpcError as e:
        print(e.code().name, e.details())
