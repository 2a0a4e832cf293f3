"""The command line. One file a command, each thin: parse, call, print. Heavy imports stand inside the commands."""
