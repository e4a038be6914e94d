"""A steady HTTP load over kept-alive connections with no timeout anywhere, where there is no JMeter.

    load.py HOST PORT THREADS THINK_MS RAMP_S RESULTS

A line for each sample that has ended, as JMeter writes it.
"""

import http.client
import os
import sys
import threading
import time

host, port, threads, think, ramp = sys.argv[1], *map(int, sys.argv[2:6])
results = os.open(sys.argv[6], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.write(results, b"timeStamp,elapsed,success,threadName\n")


def load(number):
    time.sleep(ramp * number / threads)
    connection = http.client.HTTPConnection(host, port)
    while True:
        time.sleep(think / 1000)
        begin, clock = time.time(), time.monotonic()
        try:
            connection.request("GET", "/")
            response = connection.getresponse()
            response.read()
            success = response.status == 200
        except (OSError, http.client.HTTPException):
            connection.close()  # the next request connects anew
            success = False
        elapsed = time.monotonic() - clock
        line = f"{begin * 1000:.0f},{elapsed * 1000:.0f},{str(success).lower()},load-{number}\n"
        os.write(results, line.encode())


for number in range(threads):
    threading.Thread(target=load, args=(number,)).start()
