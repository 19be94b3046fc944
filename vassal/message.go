package vassal

import (
	"os"
	"time"
)

// Message is what travels on the control channel between the Emperor and the
// core of one generation: one JSON object per packet of a SOCK_SEQPACKET pair,
// at most MaxMessage bytes, at most MaxMessageRate of them a second towards
// the Emperor. The core runs as the tenant, so all it says is a claim: nothing
// in it changes another vassal, a path, an id or a limit. A packet that breaks
// a rule ends the generation.
type Message struct {
	V      int         `json:"v"` // MessageVersion
	Type   MessageType `json:"type"`
	Reason *Problem    `json:"reason,omitempty"` // Failed: why
	Counts *Counts     `json:"counts,omitempty"` // Counters
	Notes  Problems    `json:"notes,omitempty"`  // Ready: what the core found missing; Certificates: what it did not take
	Until  *time.Time  `json:"until,omitempty"`  // Rested and Turn: the minute up to which crons have been seen to; nil: unknown

	// File came beside a Certificates to the core: a sealed file that holds
	// CertFiles as JSON. Whoever receives it closes it.
	File *os.File `json:"-"`
}

// MessageVersion is the only version there is.
const MessageVersion = 1

// Limits of the control channel.
const (
	MaxMessage     = 8 << 10 // bytes
	MaxMessageRate = 100     // a second
)

// MessageType says what a Message means.
type MessageType string

// From the core to the Emperor.
const (
	Hello    MessageType = "hello"    // the core runs; the Emperor checks it from outside
	Ready    MessageType = "ready"    // the app is loaded, the listeners are served
	Failed   MessageType = "failed"   // it will exit; Reason says why
	Counters MessageType = "counters" // at most one a second, and a last one at the end
	Closed   MessageType = "closed"   // it accepts no more: what connects from now on meets its successor
	Reload   MessageType = "reload"   // it got SIGHUP: somebody wishes another generation
	Idle     MessageType = "idle"     // there was no request for App.Sleep: it may be put to sleep
	Rested   MessageType = "rested"   // it was asked to drain, and its daemons, crons, timers and spoolers have ended
)

// From the Emperor to the core.
const (
	Verified MessageType = "verified" // the check from outside passed: build and serve
	Drain    MessageType = "drain"    // accept no more, finish what was accepted, exit 0
	Relieved MessageType = "relieved" // another generation takes over: the drain that follows is no stop of the vassal
	Turn     MessageType = "turn"     // no other generation has daemons, crons, timers or spoolers: its own may start
	Alone    MessageType = "alone"    // no other generation lives: its mules may start too
	Reopen   MessageType = "reopen"   // reopen log files
)

// Certificates goes both ways: to the core with the bytes of certificates that
// have changed, and back with what is wrong with those.
const Certificates MessageType = "certificates"

// Counts are the core's own counts since its start, shown as the tenant's.
type Counts struct {
	Requests uint64        `json:"requests"`
	Errors   uint64        `json:"errors"`   // answers of 500 and above
	Active   int           `json:"active"`   // requests being served
	Respawns uint64        `json:"respawns"` // of workers
	Busy     time.Duration `json:"busy"`
}
