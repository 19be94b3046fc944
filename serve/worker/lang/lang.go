// Package lang is the seam between the pool of workers and the languages of
// their applications. A language is one package beside this one: it knows its
// interpreter, writes the packets in a form that its interpreter reads at C
// speed, and puts into words why an application does not run. The program
// that runs inside the interpreter is in package shims; what it says on its
// lanes is the same for every language, see package worker.
//
// Package worker asks a Runtime, cmd/liege-core chooses it; neither knows the
// languages otherwise.
package lang

import (
	"liege/serve/exchange"
	"liege/vassal"
)

// Protocol is the version of the protocol between the core and the programs in
// the workers, as worker/lane.go and worker/loader.go draw it. Both sides are
// of one build, so it is not negotiated: each program refuses another number
// in its settings ("protocol"), which says that two builds were mixed.
const Protocol = 1

// Runtime is one language's side of a pool. There is one value per pool, made
// before anything is started; it starts nothing itself.
type Runtime interface {
	Encoder
	Interpreter
	Explainer
}

// Encoder writes the packets of the shared queue and of the loader's control
// socket. It appends and returns the longer slice, as append does.
type Encoder interface {
	// Request appends a request. Its body is in the packet when body is not
	// nil; else, where r.Length is not 0, the worker asks for it. It is called
	// for each request and allocates nothing but b.
	Request(b []byte, id uint64, r *exchange.Request, body []byte) []byte
	// Dict appends a packet of another kind. Its names are ASCII.
	Dict(b []byte, entries []Entry) []byte
}

// Entry is a member of a packet. Its value is an int, a bool, a string (text
// as the system has it, in UTF-8 as far as it is any), a []byte, a []string or
// a [][]byte.
type Entry struct {
	Name  string
	Value any
}

// Interpreter is what is executed.
type Interpreter interface {
	// Command is the interpreter's path and its arguments, the first its own
	// name. Its program waits for Program on descriptor 3.
	Command() (string, []string)
	// Program are the first packets that the loader reads.
	Program() [][]byte
	// Settings are the language's own members of the packet after them.
	Settings() []Entry
}

// Explainer makes problems of what went wrong.
type Explainer interface {
	// Problem explains why the application was not loaded, in the words of the
	// language's program.
	Problem(text string) *vassal.Problem
	// NoStart is for an interpreter that cannot be executed.
	NoStart(err error) *vassal.Problem
	// Died is for a worker that ended before it was ready.
	Died(worker int, how string) *vassal.Problem
	// LoaderDied is for a loader that ended before all workers were ready:
	// output is the end of what it wrote to its standard error before the
	// program ran.
	LoaderDied(how, output string, loaded bool) *vassal.Problem
}

// ID is a request's number as packets carry it.
func ID(id uint64) []byte {
	raw := PutID(id)
	return raw[:]
}

// PutID is ID without an allocation.
func PutID(id uint64) (raw [8]byte) {
	for i := range raw {
		raw[i] = byte(id >> (8 * i))
	}
	return raw
}
