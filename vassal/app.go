package vassal

import (
	"os"
	"time"
)

// App is what the core serves: all it knows. It crosses into the sandbox as
// JSON in a sealed memfd, and holds no name that must be looked up on the
// host. Paths are those inside the sandbox.
type App struct {
	Name       Name          `json:"name"`
	Generation int           `json:"generation"`
	Hostname   string        `json:"hostname"` // SERVER_NAME
	Listen     []Listener    `json:"listen"`   // Listen[i] is file descriptor 3+i
	Dir        string        `json:"dir"`      // working directory; empty: /
	Env        []string      `json:"env"`      // of everything the core starts; K=V, in order
	HTTP       HTTPLimits    `json:"http"`
	Static     Static        `json:"static"`
	Workers    *Workers      `json:"workers,omitempty"` // nil: static files only
	Hold       *Hold         `json:"hold,omitempty"`    // not nil: the answer to every request
	Log        LogFormat     `json:"log"`
	Drain      time.Duration `json:"drain"`              // how long requests may take to finish once asked to drain
	Warnings   Problems      `json:"warnings,omitempty"` // for the ready line
}

// Hold is what a holding generation answers to every request while the vassal
// is suspended or waits for its next start: such an App has no files and no
// workers.
type Hold struct {
	Status     int           `json:"status"`         // 400 to 599
	Page       []byte        `json:"page,omitempty"` // the body; empty: a line of text
	RetryAfter time.Duration `json:"retry_after"`    // when a client should come again; 0: not said
}

// HTTPLimits are the bounds of the HTTP and uwsgi fronts. Every one is set:
// zero is not "none".
type HTTPLimits struct {
	HeaderTimeout time.Duration `json:"header_timeout"` // first byte to end of head
	BodyTimeout   time.Duration `json:"body_timeout"`   // between two reads of a body (socket-timeout)
	WriteTimeout  time.Duration `json:"write_timeout"`  // between two writes of an answer
	IdleTimeout   time.Duration `json:"idle_timeout"`   // between two requests of a connection
	HeaderBytes   int           `json:"header_bytes"`   // request line and header fields (buffer-size)
	Fields        int           `json:"fields"`         // header fields of a request (max-vars)
	BodyBytes     int64         `json:"body_bytes"`     // limit-post; 0: none named, streamed without bound
	Connections   int           `json:"connections"`    // at once, of all listeners together
	KeepAlive     bool          `json:"keep_alive"`
	StatsHTTP     bool          `json:"stats_http,omitempty"` // stats listeners speak HTTP
}

// Static is the static file part: uWSGI's check-static and its kin.
type Static struct {
	Check   []string    `json:"check,omitempty"`    // check-static: directories tried in order with PATH_INFO
	Map     []StaticMap `json:"map,omitempty"`      // static-map and static-map2
	Index   []string    `json:"index,omitempty"`    // static-index
	SkipExt []string    `json:"skip_ext,omitempty"` // static-skip-ext
	Safe    []string    `json:"safe,omitempty"`     // static-safe: directories that links may lead to
	Mime    []string    `json:"mime,omitempty"`     // mimefile
}

// StaticMap serves Dir under the URL prefix Mount.
type StaticMap struct {
	Mount  string `json:"mount"`
	Dir    string `json:"dir"`
	Append bool   `json:"append,omitempty"` // static-map2: the mount point is part of the file's path
}

// Workers are the processes that run the application.
type Workers struct {
	Language    string        `json:"language"`    // "python"
	Interpreter string        `json:"interpreter"` // absolute; empty: the language's own default
	Processes   int           `json:"processes"`
	Threads     int           `json:"threads"` // per process
	Python      *Python       `json:"python,omitempty"`
	Rlimits     []Rlimit      `json:"rlimits,omitempty"` // set on each worker between fork and exec
	Nice        int           `json:"nice,omitempty"`
	Umask       *os.FileMode  `json:"umask,omitempty"`        // of the workers; nil: the core's
	CPUAffinity int           `json:"cpu_affinity,omitempty"` // CPUs per worker; 0: any
	Batch       bool          `json:"batch,omitempty"`        // SCHED_BATCH: a woken worker does not pre-empt the core
	Harakiri    time.Duration `json:"harakiri,omitempty"`     // longest request; 0: none
	Title       string        `json:"title"`                  // process title, before "worker N"; empty: the vassal's name
	TitlePlain  bool          `json:"title_plain,omitempty"`  // procname given: as is, no "worker N"
	MaxRequests int           `json:"max_requests,omitempty"` // per worker, then it is replaced
	LazyApps    bool          `json:"lazy_apps,omitempty"`
	LoadTimeout time.Duration `json:"load_timeout"` // for the app to load
}

// Python is the app of Python workers.
type Python struct {
	File       string   `json:"file,omitempty"`     // wsgi-file
	Module     string   `json:"module,omitempty"`   // module, or wsgi = module:callable
	Callable   string   `json:"callable,omitempty"` // default "application"
	Virtualenv string   `json:"virtualenv,omitempty"`
	Path       []string `json:"path,omitempty"` // pythonpath, in order
	Argv       string   `json:"argv,omitempty"` // pyargv
	At         Origin   `json:"at"`             // the line that names the app
}

// Rlimit is one resource limit, both soft and hard.
type Rlimit struct {
	Resource string `json:"resource"` // "as", "data", "stack", "cpu", "nproc", "nofile", "core"
	Value    uint64 `json:"value"`    // bytes, seconds or a count
	At       Origin `json:"at"`
}

// LogFormat says what the core logs about requests.
type LogFormat struct {
	Disable bool   `json:"disable,omitempty"` // disable-logging
	To      string `json:"to,omitempty"`      // logto the core can open itself; empty: stderr
	Format  string `json:"format,omitempty"`  // log-format; empty: the default line
}
