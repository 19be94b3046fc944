package route

import (
	"errors"
	"slices"
	"strings"

	"liege/serve/exchange"
	"liege/vassal/route"
)

// fcgiauth lets a FastCGI authorizer decide: 200 lets the request pass, with
// the variables that the fields Variable-NAME give it; any other answer is the
// client's.
func fcgiauth(r *rl) (act, error) {
	t, err := r.template(route.ParseUpstream(r.ActionArg).Address)
	at := r.At
	return func(x *run) verdict {
		said := &opinion{}
		if err := x.h.cfg.Proxy.Authorize(x.ctx, asSeen(x.r), said, t.Expand(x)); err != nil {
			x.ending = func(*run) error { return err }
			return stop
		}
		if said.status != 200 {
			x.ending = func(x *run) error { return x.text(said.status, said.reason, said.fields, string(said.body)) }
			return stop
		}
		for _, f := range said.fields {
			if name, ok := strings.CutPrefix(f.Name, "Variable-"); ok && x.setNew(at, name, f.Value) == stop {
				return stop
			}
		}
		return next
	}, err
}

// asSeen is r with the path that rules see: who decides about it must not
// decide about another one.
func asSeen(r *exchange.Request) *exchange.Request {
	p := r.Path()
	if p == r.Get("PATH_INFO") {
		return r
	}
	seen := *r
	seen.Vars = slices.Clone(r.Vars)
	seen.Set("PATH_INFO", p)
	return &seen
}

// opinion is the Response of an authorizer.
type opinion struct {
	status int
	reason string
	fields []exchange.Field
	body   []byte
}

// maxOpinion bounds its body, in bytes.
const maxOpinion = 64 << 10

var errLongOpinion = errors.New("an authorizer's answer is too long")

func (o *opinion) Head(status int, reason string, fields []exchange.Field) error {
	o.status, o.reason = status, reason
	for _, f := range fields { // they are the connection's: kept longer than it
		if !strings.EqualFold(f.Name, "Content-Length") {
			o.fields = append(o.fields, f)
		}
	}
	return nil
}

func (o *opinion) Write(p []byte) (int, error) {
	if len(o.body)+len(p) > maxOpinion {
		return 0, errLongOpinion
	}
	o.body = append(o.body, p...)
	return len(p), nil
}

func (o *opinion) Flush() error                           { return nil }
func (o *opinion) File(exchange.File, int64, int64) error { return errLongOpinion }
func (o *opinion) Started() bool                          { return o.status != 0 }
