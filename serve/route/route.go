// Package route carries internal routing out: the rules of package
// vassal/route, compiled once into tables that never change.
//
// New puts a Handler in front of static files and the application:
//
//	front → Handler → (static file found: request rules → the file
//	                   none: request rules → application)
//
// Request rules run before the application and before a static file is sent,
// with PATH_INFO naming the index that was found, so a rule that keeps
// somebody away keeps files away too. They see the path by which files and
// programs are found, however the client wrote it (exchange.Request.Path);
// the application gets PATH_INFO as it is. Error rules run whenever a status is
// set, response rules once the head of an answer is complete, both while
// nothing has been sent: a rule that answers takes the place of what was to be
// answered, whose body goes nowhere. What a rule answers is sent when the
// worker has finished, by the goroutine of the connection: a worker is never
// busy with a file or with a proxied connection. Final rules run when the
// answer is with the client.
//
// Where uWSGI closes the connection without a word, a status is answered:
// 403 for "break:", 404 for a file that is not there, 500 for a rule that
// cannot be carried out, 502 and 504 for upstreams.
//
// A request that no rule concerns allocates nothing here.
package route

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path"
	"strings"
	"sync"

	"liege/serve/cache"
	"liege/serve/compress"
	"liege/serve/exchange"
	"liege/serve/metrics"
	"liege/serve/proxy"
	"liege/serve/static"
	"liege/vassal"
)

// Caller calls a function that the application has registered: package
// worker's Pool. A function that is not there, fails or returns nothing is an
// error.
type Caller interface {
	Call(ctx context.Context, function string, args []string) (string, error)
}

// Config is what a Handler needs.
type Config struct {
	App     *vassal.App
	Next    exchange.Handler // the application
	Call    Caller           // nil: there is no application
	Stats   func() exchange.Stats
	Proxy   *proxy.Client
	Signal  func(int) error         // raises a signal of the application; nil: there is none
	Alarm   func(name, text string) // raises one; nil: rules cannot
	Cache   *cache.Set              // nil: none
	Metrics *metrics.Set            // nil: none
	Log     *slog.Logger

	Compressors *compress.Lender // nil: its own
}

// Handler applies rules. Make one with New; it is safe for concurrent use.
type Handler struct {
	cfg      Config
	files    *static.Handler
	first    exchange.Handler // static files, or inner
	request  chain
	errors   chain
	response chain
	final    chain
	collect  []vassal.HeaderVar
	add      []exchange.Field
	remove   []string
	runs     sync.Pool
}

// New compiles the rules of cfg.App. With serves the URL's files are looked
// for before the application is asked. An error is a *vassal.Problem that
// names the rule: liege check has found it before.
func New(cfg Config, serves bool) (*Handler, error) {
	if cfg.Compressors == nil {
		cfg.Compressors = new(compress.Lender)
	}
	h := &Handler{cfg: cfg}
	h.runs.New = func() any { return &run{h: h} }
	h.files = static.New(cfg.App.Static, exchange.HandlerFunc(h.inner), cfg.Log)
	h.files.Before = h.before
	h.first = exchange.HandlerFunc(h.inner)
	if serves {
		h.first = h.files
	}
	all := cfg.App.Routing
	for _, c := range []struct {
		to    *chain
		rules []vassal.Rule
	}{{&h.request, all.Request}, {&h.errors, all.Error}, {&h.response, all.Response}, {&h.final, all.Final}} {
		var err error
		if *c.to, err = h.compile(c.rules); err != nil {
			return nil, err
		}
	}
	h.collect, h.remove = all.Collect, all.Remove
	for _, f := range all.Add {
		h.add = append(h.add, exchange.Field{Name: f.Name, Value: f.Value})
	}
	return h, nil
}

// Serve implements exchange.Handler.
func (h *Handler) Serve(ctx context.Context, r *exchange.Request, w exchange.Response) error {
	if x, ok := unwrapped(w).(*run); ok && x.h == h {
		return x.again(ctx, r)
	}
	x := h.runs.Get().(*run)
	x.begin(ctx, r, w)
	defer h.release(x)
	if len(h.final.rules) > 0 {
		then := context.WithoutCancel(ctx)
		r.Info.Then = func() { h.after(then, r) }
	}
	err := x.unzip(x.complete(h.first.Serve(ctx, r, x)))
	if x.keep.on && err == nil {
		x.store()
	}
	return err
}

// unwrapped is w without what lies around it.
func unwrapped(w exchange.Response) exchange.Response {
	for {
		u, ok := w.(interface{ Unwrap() exchange.Response })
		if !ok {
			return w
		}
		w = u.Unwrap()
	}
}

// again serves another request in place of the one that is being served, on
// the same answer: a local redirect. Rules about the answer apply once.
func (x *run) again(ctx context.Context, r *exchange.Request) error {
	was := x.r
	x.r, x.have = r, 0
	err := x.h.first.Serve(ctx, r, x)
	x.r, x.have = was, 0
	return err
}

func (h *Handler) release(x *run) {
	x.end()
	h.runs.Put(x)
}

// before applies the request rules to a static file that is about to be sent.
func (h *Handler) before(_ context.Context, _ *exchange.Request, w exchange.Response) (bool, error) {
	x := w.(*run)
	if x.apply(&h.request) == stop {
		return true, x.answer()
	}
	return false, nil
}

// inner applies the request rules, and then asks the application.
func (h *Handler) inner(ctx context.Context, r *exchange.Request, w exchange.Response) error {
	x := w.(*run)
	if x.apply(&h.request) == stop {
		return x.answer()
	}
	x.cleared = statusLine{} // the application says its own
	return h.cfg.Next.Serve(ctx, r, x)
}

// after applies the final rules.
func (h *Handler) after(ctx context.Context, r *exchange.Request) {
	x := h.runs.Get().(*run)
	x.begin(ctx, r, closed{})
	defer h.release(x)
	x.status = r.Info.Status
	x.apply(&h.final)
}

// closed is the Response of a request that has been answered.
type closed struct{}

var errAnswered = errors.New("the request is answered")

func (closed) Head(int, string, []exchange.Field) error { return errAnswered }
func (closed) Write([]byte) (int, error)                { return 0, errAnswered }
func (closed) Flush() error                             { return errAnswered }
func (closed) File(exchange.File, int64, int64) error   { return errAnswered }
func (closed) Started() bool                            { return true }

var _ io.Writer = closed{}

// absolute is a path that is relative to the application's directory.
func (h *Handler) absolute(p string) string {
	if path.IsAbs(p) {
		return p
	}
	return path.Join("/", h.cfg.App.Dir, p)
}

// problem is an error about a rule.
func problem(r *vassal.Rule, err error) error {
	return &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeBadRoute, File: r.At.File, Line: r.At.Line, Key: r.Key, Step: "routing",
		Message: strings.TrimSpace(fmt.Sprintf("%s: %v", r.Action, err))}
}
