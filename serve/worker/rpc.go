package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"liege/serve/exchange"
	"liege/serve/worker/lang"
)

// A function of the application is called as a request is served: its packet
// goes through the shared queue to whichever worker is free, and the answer
// comes over that worker's lane. So what holds for requests holds for it: the
// bounds of the queue, harakiri, a worker that dies.

// Limits of a call.
const (
	callTime  = 30 * time.Second // without harakiri
	maxResult = 64 << 10         // bytes, as in uWSGI
	maxArgs   = 1 << 20          // bytes of all arguments
	maxName   = 254              // bytes, as register_rpc takes them
)

// function is a function with its arguments.
type function struct {
	name string
	args []string
}

// entries are the packet's.
func (f *function) entries(id uint64) []lang.Entry {
	args := make([][]byte, len(f.args))
	for i, a := range f.args {
		args[i] = []byte(a)
	}
	return []lang.Entry{{Name: "liege.id", Value: lang.ID(id)}, {Name: "liege.rpc", Value: []byte(f.name)}, {Name: "liege.args", Value: args}}
}

// Call calls a function that the application has registered with
// uwsgi.register_rpc, in any worker. What it returns is a string, of a str in
// UTF-8; a function that is not there, fails, returns nothing or takes longer
// than harakiri (else 30 seconds) is an error.
func (p *Pool) Call(ctx context.Context, name string, args []string) (string, error) {
	if name == "" || name[0] == 0 || len(name) > maxName { // also signalName
		return "", errNoFunction
	}
	size := len(name)
	for _, a := range args {
		size += len(a)
	}
	if size > maxArgs {
		return "", fmt.Errorf("%d bytes of arguments, more than %d", size, maxArgs)
	}
	limit := callTime
	if p.w.Harakiri > 0 {
		limit = p.w.Harakiri
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the function did not answer within %v", limit))
	defer cancel()
	if p.fleet != nil {
		return p.fleet.call(ctx, name, args)
	}
	return p.callOwn(ctx, name, args)
}

var errNoFunction = errors.New("the application has registered no such function")

// callOwn calls a function of the first application.
func (p *Pool) callOwn(ctx context.Context, name string, args []string) (string, error) {
	r := &exchange.Request{Vars: []exchange.Var{{Name: "REQUEST_METHOD", Value: "CALL"}, {Name: "REQUEST_URI", Value: name}}, Body: nothing{}, Start: time.Now()}
	w := &result{}
	err := p.serve(ctx, r, w, &function{name, args})
	switch {
	case err != nil:
		return "", err
	case w.status == 404:
		return "", errNoFunction
	case w.status == 204:
		return "", errors.New("the function returned nothing")
	case w.status != 200:
		return "", fmt.Errorf("the worker answered a call with %d", w.status)
	}
	return string(w.body), nil
}

type nothing struct{}

func (nothing) Read([]byte) (int, error) { return 0, io.EOF }

// result is the Response of a call.
type result struct {
	status int
	body   []byte
}

var errLongResult = errors.New("the function returned too much")

func (w *result) Head(status int, _ string, _ []exchange.Field) error {
	w.status = status
	return nil
}

func (w *result) Write(p []byte) (int, error) {
	if len(w.body)+len(p) > maxResult {
		return 0, errLongResult
	}
	w.body = append(w.body, p...)
	return len(p), nil
}

func (w *result) Flush() error                           { return nil }
func (w *result) File(exchange.File, int64, int64) error { return errors.New("a file is no result") }
func (w *result) Started() bool                          { return w.status != 0 }
