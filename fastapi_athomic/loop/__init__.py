"""The event loop and the process are shared: with HTTP routes, with the end of the process, with the garbage collector.

Consumers ask here how much they may take and when to give way; nothing here knows what a message is. Share: what
consumers may use of the loop before they give it back. Home: the loop that consumers live in.
"""
