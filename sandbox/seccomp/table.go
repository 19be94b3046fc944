package seccomp

import _ "embed"

// The tables are text, not Go maps: a map would be built whenever a program
// that links this package starts, and that is at every start of a sandbox.
var (
	//go:embed calls_amd64.txt
	callsAMD64 string
	//go:embed calls_arm64.txt
	callsARM64 string
)

// table returns the lines "name number" of an architecture.
func table(goarch string) string {
	if goarch == "arm64" {
		return callsARM64
	}
	return callsAMD64
}
