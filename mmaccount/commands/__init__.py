"""The command `mmaccount`: each command is loaded when it is asked for."""
