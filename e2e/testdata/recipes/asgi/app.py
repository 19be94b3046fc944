import contextlib

from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute

state = {'ready': False}


@contextlib.asynccontextmanager
async def lifespan(app):
    state['ready'] = True
    yield
    print('shut down', flush=True)


async def hello(request):
    return PlainTextResponse('hello %s, ready: %s' % (request.path_params['name'], state['ready']))


async def echo(request):
    return JSONResponse({'got': len(await request.body())})


async def stream(request):
    async def parts():
        for i in range(3):
            yield '%d\n' % i
    return StreamingResponse(parts())


async def chat(websocket):
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text('you said ' + text)

application = Starlette(lifespan=lifespan, routes=[
    Route('/hello/{name}', hello), Route('/echo', echo, methods=['POST']), Route('/stream', stream), WebSocketRoute('/chat', chat)])
