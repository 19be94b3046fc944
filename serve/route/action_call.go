package route

import (
	"fmt"
	"strconv"
	"strings"

	"liege/serve/exchange"
	"liege/vassal/route"
)

// call is a function of the application with its arguments.
type call struct {
	parts []route.Template
	at    string // of another instance; "": its own
	rule  *rl
}

func newCall(r *rl, arg string) (*call, error) {
	words, err := route.Words(arg)
	if err != nil {
		return nil, err
	}
	c := &call{rule: r}
	if words[0], c.at = route.Function(words[0]); c.at == "" && r.h.cfg.Call == nil {
		return nil, fmt.Errorf("there is no application whose functions could be called")
	}
	for _, w := range words {
		t, err := r.template(w)
		if err != nil {
			return nil, err
		}
		c.parts = append(c.parts, t)
	}
	return c, nil
}

// do calls the function. What goes wrong is logged.
func (c *call) do(x *run) (string, bool) {
	words := make([]string, len(c.parts))
	for i := range c.parts {
		words[i] = c.parts[i].Expand(x)
	}
	var out string
	var err error
	if c.at != "" {
		out, err = x.h.cfg.Proxy.Call(x.ctx, c.at, words[0], words[1:])
	} else {
		out, err = x.h.cfg.Call.Call(x.ctx, words[0], words[1:])
	}
	if err != nil {
		x.h.cfg.Log.Warn("routing rule: call", "file", c.rule.At.File, "line", c.rule.At.Line, "function", clip(words[0]), "err", err)
		return "", false
	}
	return out, true
}

// rpc answers with what a function returns.
func rpc(r *rl) (act, error) {
	c, err := newCall(r, r.ActionArg)
	return func(x *run) verdict {
		out, ok := c.do(x)
		if !ok || out == "" {
			x.fail(r.At, "the function returned nothing")
			return stop
		}
		x.ending = func(x *run) error { return x.text(200, "", []exchange.Field{length(len(out))}, out) }
		return stop
	}, err
}

// rpcnext puts what a function returns before the body.
func rpcnext(r *rl) (act, error) {
	c, err := newCall(r, r.ActionArg)
	return func(x *run) verdict {
		if out, ok := c.do(x); ok {
			return x.before(r.At.Line, out)
		}
		return next
	}, err
}

// rpcraw answers with what a function returns, which is a whole HTTP answer.
func rpcraw(r *rl) (act, error) {
	c, err := newCall(r, r.ActionArg)
	return func(x *run) verdict {
		out, ok := c.do(x)
		if !ok || out == "" {
			return next
		}
		x.ending = func(x *run) error { return x.h.cfg.Proxy.Raw(x.ctx, x.r, x, out) }
		return stop
	}, err
}

// rpcvar keeps what a function returns in a variable: empty when there is
// nothing, so the variable exists.
func rpcvar(r *rl) (act, error) {
	name, rest, _ := strings.Cut(r.ActionArg, " ")
	c, err := newCall(r, rest)
	return func(x *run) verdict {
		out, _ := c.do(x)
		if strings.IndexByte(out, 0) >= 0 {
			x.fail(r.At, "the function returned a NUL, which no variable can hold")
			return stop
		}
		return x.setNew(r.At, name, out)
	}, err
}

// rpcret does what a function says: next, continue, break, break STATUS, goto
// LABEL. Anything else ends the chain, as in uWSGI. A call that fails ends the
// request: the function may be what keeps somebody out.
func rpcret(r *rl) (act, error) {
	c, err := newCall(r, r.ActionArg)
	return func(x *run) verdict {
		out, ok := c.do(x)
		if !ok {
			x.fail(r.At, "the function failed")
			return stop
		}
		word, rest, _ := strings.Cut(out, " ")
		switch word {
		case "next":
			return next
		case "break":
			x.ending = (*run).made
			if code, reason, err := route.ParseStatus(rest); err == nil {
				x.ending = func(x *run) error { return x.text(code, reason, []exchange.Field{plain}, "") }
			}
			return stop
		case "goto":
			to, ok := route.Target(r.chain, rest)
			if !ok || to <= r.index {
				x.fail(r.At, "goto leads back, or to a label that is not there")
				return stop
			}
			x.jump = to
			return next
		}
		return leave
	}, err
}

// signal raises a signal of the application. One that nobody has registered is
// a line in the log.
func signal(r *rl) (act, error) {
	n, err := strconv.Atoi(r.ActionArg)
	if r.h.cfg.Signal == nil {
		err = fmt.Errorf("there is no application that signals could be raised for")
	}
	return func(x *run) verdict {
		if err := x.h.cfg.Signal(n); err != nil {
			x.h.cfg.Log.Warn("routing rule: signal", "file", r.At.File, "line", r.At.Line, "err", err)
		}
		return next
	}, err
}

// alarm raises an alarm.
func alarm(r *rl) (act, error) {
	name, text, _ := strings.Cut(r.ActionArg, " ")
	t, err := r.template(text)
	if r.h.cfg.Alarm == nil {
		err = fmt.Errorf("there are no alarms")
	}
	return func(x *run) verdict {
		x.h.cfg.Alarm(name, t.Expand(x))
		return next
	}, err
}

// harakiri bounds the time that the application may take.
func harakiri(r *rl) (act, error) {
	limit, _ := route.Harakiri(r.Rule)
	if limit == 0 {
		limit = -1 // none at all
	}
	return func(x *run) verdict {
		x.r.Info.Harakiri = limit
		return next
	}, nil
}
