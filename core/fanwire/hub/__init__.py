"""The hub: everything between the transport and the users of one Realtime.

* ``states``: the life of a subscribed channel, as a table
* ``log``: interest logs, the fan-out
* ``continuity``: what positions and ids say about duplicates and holes
* ``hub``: the sink; routes frames to logs, turns lost continuity into repairs or gaps
* ``reconciler``: the one task that subscribes and unsubscribes
* ``history``: reading pages from a cursor, for repairs and joins
* ``lanes``: publishing, one lane a channel
* ``calls``: what a publish is while it waits in its lane
* ``connection``: connecting and reconnecting
* ``host``: the task that all of it lives in
"""
