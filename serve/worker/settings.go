package worker

import (
	"fmt"
	"os"
	"strings"
	"time"

	"liege/serve/worker/lang"
	"liege/vassal"
)

// settings is the second packet that a loader reads.
func (p *Pool) settings() []byte {
	w := &p.w
	entries := []lang.Entry{{Name: "protocol", Value: lang.Protocol}}
	add := func(name string, v any) { entries = append(entries, lang.Entry{Name: name, Value: v}) }
	add("processes", w.Processes)
	add("threads", w.Threads)
	add("max_requests", w.MaxRequests)
	add("max_requests_delta", w.MaxDelta)
	add("life", int(w.Worn.Life.Milliseconds()))
	add("life_delta", int(w.Worn.LifeDelta.Milliseconds()))
	add("drain", int(p.app.Drain.Milliseconds()))
	add("youth", int(w.Worn.Youth.Milliseconds()))
	add("rss", int(w.Worn.RSS))
	add("as", int(w.Worn.AS))
	add("retire", w.MaxRequests > 0 || w.Worn != (vassal.Worn{}) || w.Python != nil && len(w.Python.Tuning.ReloadOn) > 0 || w.Cheaper != (vassal.Cheaper{}))
	add("nice", w.Nice)
	add("affinity", w.CPUAffinity)
	add("buffer", p.app.HTTP.HeaderBytes)
	add("master", os.Getpid())
	add("door", p.door != nil)
	umask := -1
	if w.Umask != nil {
		umask = int(w.Umask.Perm())
	}
	add("umask", umask)
	add("lazy", w.LazyApps)
	add("batch", w.Batch)
	add("title_plain", w.TitlePlain)
	title, dir := w.Title, p.app.Dir
	if title == "" {
		title = string(p.app.Name)
	}
	if dir == "" {
		dir = "/"
	}
	add("title", title)
	add("dir", dir)
	return p.lang.Dict(nil, append(entries, p.lang.Settings()...))
}

// environ is what the application's processes have in their environment: the
// core's own, which is the vassal's (CONTRACT 4), and App.Env over it.
func (p *Pool) environ() []string {
	var env []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		switch name {
		// They speak of descriptors and sockets that are not the workers'.
		case "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID":
			continue
		}
		env = append(env, kv)
	}
	return lastWins(append(env, p.app.Env...))
}

// lastWins keeps the last of the lines that name the same variable.
func lastWins(env []string) []string {
	at := make(map[string]int)
	var out []string
	for _, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		if i, ok := at[name]; ok {
			out[i] = kv
			continue
		}
		at[name] = len(out)
		out = append(out, kv)
	}
	return out
}

// loadTime is how long the application may take to load.
func (p *Pool) loadTime() time.Duration {
	if p.w.LoadTimeout > 0 {
		return p.w.LoadTimeout
	}
	return loadTime
}

func loadTimeout(p *Pool, ld *loader) *vassal.Problem {
	what := "the application was not loaded"
	if ld.loaded {
		what = "the workers were not ready"
	}
	problem := p.lang.Died(0, "") // at the line that names the application
	problem.Code, problem.Message = vassal.CodeNotReady, fmt.Sprintf("%s after %v", what, p.loadTime())
	problem.Hint = "what does it wait for while it is imported? A longer time: ready-timeout ="
	if ld.loaded {
		problem.Hint = "what do they wait for behind the fork: lifespan.startup, post_fork_hook, the app itself with lazy-apps? A longer time: ready-timeout ="
	}
	return problem
}
