// Command liege-relay lets one vassal reach the addresses that its file names:
// package relay. liege-emperor starts it beside a sandbox.
package main

import (
	"os"

	"liege/relay"
)

func main() { os.Exit(relay.Main()) }
