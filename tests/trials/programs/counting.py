# An application that counts its requests, and answers with the count.
import asyncio, os, signal

count = 0
watching = None

def say(line):
    print(line, flush=True)

async def watch():
    while not os.path.exists(os.environ["STOP"]):
        await asyncio.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)

async def app(scope, receive, send):
    global count, watching
    if scope["type"] == "lifespan":
        await receive()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, say, "signal SIGHUP")
        watching = asyncio.create_task(watch())
        say("ready")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        say("PASS")
        await send({"type": "lifespan.shutdown.complete"})
        return
    count += 1
    body = f"request {count}\n".encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
