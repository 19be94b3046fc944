package vassal

import (
	"os"
	"time"
)

// App is what the core serves: all it knows. It crosses into the sandbox as
// JSON in a sealed memfd, and holds no name that must be looked up on the
// host. Paths are those inside the sandbox.
type App struct {
	Name       Name `json:"name"`
	Generation int  `json:"generation"`

	// Foreground: whoever started the core is all that knows of it, as "liege
	// serve" is: the core drains when that one is gone.
	Foreground bool `json:"foreground,omitempty"`

	Hostname  string       `json:"hostname"` // SERVER_NAME
	Listen    []Listener   `json:"listen"`   // Listen[i] is file descriptor 3+i
	Dir       string       `json:"dir"`      // working directory; empty: /
	Env       []string     `json:"env"`      // of everything the core starts; K=V, in order
	HTTP      HTTPLimits   `json:"http"`
	Sockets   SocketLimits `json:"websockets,omitzero"`
	Static    Static       `json:"static"`
	Modifiers Modifiers    `json:"modifiers,omitzero"`
	Metrics   *Metrics     `json:"metrics,omitempty"` // nil: none
	CGI       *CGI         `json:"cgi,omitempty"`     // nil: no CGI programs
	Routing   *Routing     `json:"routing,omitempty"` // nil: none
	Workers   *Workers     `json:"workers,omitempty"` // nil: static files only
	Exec      *Exec        `json:"exec,omitempty"`    // nil: no server of the app's own
	PHP       *PHP         `json:"php,omitempty"`     // nil: no PHP
	Daemons   []Daemon     `json:"daemons,omitempty"` // beside the app

	// Forward is nil where http listeners serve this App.
	Forward *Forward `json:"forward,omitempty"`

	Front  FrontOptions `json:"front,omitzero"`
	Upload Upload       `json:"upload,omitzero"`

	// Mounting is nil where one application answers every request.
	Mounting *Mounting `json:"mounting,omitempty"`

	// Hold is not nil in a holding generation: the answer to every request.
	Hold *Hold `json:"hold,omitempty"`

	TLS       *TLS      `json:"tls,omitempty"`        // nil: nothing but what the listeners say
	CertFiles CertFiles `json:"cert_files,omitempty"` // private keys: only in the sealed document

	// Caches has the one first that is meant without a name; CheckCache
	// (check-cache) names the one that answers GET by REQUEST_URI.
	Caches     []Cache `json:"caches,omitempty"`
	CheckCache *string `json:"check_cache,omitempty"`

	// Hooks are those of the application's life, in the order in which they
	// run; HookTime is how long each may take.
	Hooks    []Hook        `json:"hooks,omitempty"`
	HookTime time.Duration `json:"hook_time,omitempty"`

	// Jobs is nil where the vassal has none.
	Jobs *Jobs `json:"jobs,omitempty"`

	Keys     []Key         `json:"keys,omitempty"` // lines of the file that the app may see, in order
	Log      LogFormat     `json:"log"`
	Sleep    time.Duration `json:"sleep,omitempty"`    // without a request for so long, it asks to be put to sleep; 0: never
	Drain    time.Duration `json:"drain"`              // how long requests may take to finish once asked to drain
	Warnings Problems      `json:"warnings,omitempty"` // for the ready line
}

// A Key is a line of the vassal's file, of an option or with a name of the app's
// own, as uwsgi.opt shows it.
type Key struct {
	Name  string `json:"name"`
	Value string `json:"value,omitempty"`
	Flag  bool   `json:"flag,omitempty"` // of liege serve's command line, without a value
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
	StatsHTTP     bool          `json:"stats_http,omitempty"`     // stats listeners speak HTTP
	ProxyProtocol bool          `json:"proxy_protocol,omitempty"` // connections by HTTP begin with a PROXY header
}

// SocketLimits bound WebSockets that the application serves.
type SocketLimits struct {
	Ping    time.Duration `json:"ping,omitempty"`    // of silence before a client is asked whether it is there; 0: 30 s, below: never
	Pong    time.Duration `json:"pong,omitempty"`    // that it has for an answer, at least; 0: 3 s
	Message int64         `json:"message,omitempty"` // bytes of a client's message; 0: 16 MiB
}

// Static is the static file part: uWSGI's check-static and its kin.
type Static struct {
	Check   []string    `json:"check,omitempty"`    // check-static: directories tried in order with PATH_INFO
	Map     []StaticMap `json:"map,omitempty"`      // static-map and static-map2
	Index   []string    `json:"index,omitempty"`    // static-index
	SkipExt []string    `json:"skip_ext,omitempty"` // static-skip-ext
	Safe    []string    `json:"safe,omitempty"`     // static-safe: directories that links may lead to
	Mime    []string    `json:"mime,omitempty"`     // mimefile

	Docroot  bool            `json:"docroot,omitempty"`   // check-static-docroot
	DotFiles bool            `json:"dot_files,omitempty"` // static-dot-files
	Expires  []StaticExpires `json:"expires,omitempty"`   // static-expires*
	Gzip     StaticGzip      `json:"gzip,omitzero"`       // static-gzip*
}

// StaticExpires says when a file expires.
type StaticExpires struct {
	By      ExpiresBy `json:"by"`
	Match   string    `json:"match"` // a regular expression, a type with ByType
	Seconds int64     `json:"seconds"`
	Mtime   bool      `json:"mtime,omitempty"` // from the file's time; false: from now
	At      Origin    `json:"at"`
}

// ExpiresBy is what a StaticExpires is matched with.
type ExpiresBy string

// What a file's time to live may go by.
const (
	ByFile ExpiresBy = "file" // its path
	ByURI  ExpiresBy = "uri"  // REQUEST_URI
	ByPath ExpiresBy = "path" // PATH_INFO
	ByType ExpiresBy = "type" // its media type
)

// StaticGzip says of which files a compressed neighbour is sent.
type StaticGzip struct {
	All   bool     `json:"all,omitempty"`
	Match []string `json:"match,omitempty"` // regular expressions for the file's path
	Dirs  []string `json:"dirs,omitempty"`  // that it begins with
	Exts  []string `json:"exts,omitempty"`  // that it ends with
}

// Any reports whether URLs may be answered with files.
func (s *Static) Any() bool { return len(s.Check)+len(s.Map) > 0 || s.Docroot }

// StaticMap serves Dir under the URL prefix Mount.
type StaticMap struct {
	Mount  string `json:"mount"`
	Dir    string `json:"dir"`
	Append bool   `json:"append,omitempty"` // static-map2: the mount point is part of the file's path
}

// Workers are the processes that run the application.
type Workers struct {
	Language    string        `json:"language"`    // "python", "ruby", "perl"
	Interpreter string        `json:"interpreter"` // absolute; empty: the language's own default
	Processes   int           `json:"processes"`
	Threads     int           `json:"threads"`         // per process
	Async       int           `json:"async,omitempty"` // requests that a process of an asynchronous application serves at once; 0: Threads if there are several, else a default
	Python      *Python       `json:"python,omitempty"`
	Ruby        *Ruby         `json:"ruby,omitempty"`
	Perl        *Perl         `json:"perl,omitempty"`
	Rlimits     []Rlimit      `json:"rlimits,omitempty"` // set on each worker between fork and exec
	Nice        int           `json:"nice,omitempty"`
	Umask       *os.FileMode  `json:"umask,omitempty"`              // of the workers; nil: the core's
	CPUAffinity int           `json:"cpu_affinity,omitempty"`       // CPUs per worker; 0: any
	Batch       bool          `json:"batch,omitempty"`              // SCHED_BATCH: a woken worker does not pre-empt the core
	Harakiri    time.Duration `json:"harakiri,omitempty"`           // longest request; 0: none
	Title       string        `json:"title"`                        // process title, before "worker N"; empty: the vassal's name
	TitlePlain  bool          `json:"title_plain,omitempty"`        // procname given: as is, no "worker N"
	MaxRequests int           `json:"max_requests,omitempty"`       // per worker, then it is replaced
	MaxDelta    int           `json:"max_requests_delta,omitempty"` // more for each worker than for the one before
	LazyApps    bool          `json:"lazy_apps,omitempty"`
	LoadTimeout time.Duration `json:"load_timeout"`      // for the app to load
	Waiting     int           `json:"waiting,omitempty"` // listen: requests that may wait for a worker; further ones get 503
	Cheaper     Cheaper       `json:"cheaper,omitzero"`
	Worn        Worn          `json:"worn,omitzero"`
}

// Modifier is the number by which the uwsgi protocol asks for w's language, as
// uWSGI counts: nginx is told to send 5 to Perl and 7 to Ruby. 0 is Python's,
// and asks for whatever application there is.
func (w *Workers) Modifier() uint8 {
	switch {
	case w == nil:
		return 0
	case w.Perl != nil:
		return 5
	case w.Ruby != nil:
		return 7
	}
	return 0
}

// Cheaper says how many of the workers run when there is less to do: uWSGI's
// cheaper and its kin.
type Cheaper struct {
	Least    int           `json:"least,omitempty"`    // cheaper; 0: all run all the time
	Initial  int           `json:"initial,omitempty"`  // at the start; 0: Least
	Step     int           `json:"step,omitempty"`     // started at once; 0: 1
	Overload time.Duration `json:"overload,omitempty"` // all busy for so long: more; more than one idle for so long: fewer
	Cheap    bool          `json:"cheap,omitempty"`    // none until the first request
	Idle     time.Duration `json:"idle,omitempty"`     // none after so long without a request; 0: never
}

// Worn says when a worker is replaced. It finishes the request that it is at,
// but for the Evil limits.
type Worn struct {
	Life      time.Duration `json:"life,omitempty"`       // max-worker-lifetime
	LifeDelta time.Duration `json:"life_delta,omitempty"` // more for each worker than for the one before
	Youth     time.Duration `json:"youth,omitempty"`      // min-worker-lifetime: not before, for its memory
	RSS       int64         `json:"rss,omitempty"`        // reload-on-rss, bytes
	AS        int64         `json:"as,omitempty"`         // reload-on-as, bytes
	EvilRSS   int64         `json:"evil_rss,omitempty"`   // evil-reload-on-rss: killed
	EvilAS    int64         `json:"evil_as,omitempty"`    // evil-reload-on-as
}

// Python is the app of Python workers.
type Python struct {
	File       string        `json:"file,omitempty"`     // wsgi-file
	Written    string        `json:"written,omitempty"`  // the same as its line has it, after which the module is named; empty: File
	Module     string        `json:"module,omitempty"`   // module, or wsgi = module:callable
	Callable   string        `json:"callable,omitempty"` // default "application"
	ASGI       bool          `json:"asgi,omitempty"`     // it is an ASGI application; false: WSGI, or what it looks like
	Gevent     bool          `json:"gevent,omitempty"`   // WSGI in greenlets, Async of them
	Patch      bool          `json:"patch,omitempty"`    // gevent patches the standard library before the application is loaded
	Virtualenv string        `json:"virtualenv,omitempty"`
	Path       []string      `json:"path,omitempty"`      // pythonpath, in order
	Argv       string        `json:"argv,omitempty"`      // pyargv
	At         Origin        `json:"at"`                  // the line that names the app
	Watch      time.Duration `json:"watch,omitempty"`     // py-autoreload: how often the loaded modules' files are looked at; 0: never
	Unwatched  []string      `json:"unwatched,omitempty"` // py-auto-reload-ignore: names of modules
	Key        string        `json:"key,omitempty"`       // its option; empty: wsgi-file or module
	Form       PythonForm    `json:"form,omitempty"`      // of Module
	Tuning     PythonTuning  `json:"tuning,omitzero"`
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
	To      string `json:"to,omitempty"`      // file of req-logger; empty: stderr
	At      Origin `json:"at,omitzero"`       // of that line
	Format  string `json:"format,omitempty"`  // log-format; empty: the default line
	JSON    bool   `json:"json,omitempty"`    // log-json: one object a line

	MaxSize  int64    `json:"max_size,omitempty"` // of the file of req-logger, bytes: then it is renamed; 0: it grows
	Backup   string   `json:"backup,omitempty"`   // what it is renamed to; empty: its name and the time
	Encoders []string `json:"encoders,omitempty"` // log-req-encoder, NAME ARGUMENTS, one after the other
	Drain    []string `json:"drain,omitempty"`    // log-drain: a line that one matches is left out
	Filter   []string `json:"filter,omitempty"`   // log-filter: so is one that none matches

	Forwarded bool    `json:"forwarded,omitempty"` // log-x-forwarded-for
	Only      LogOnly `json:"only,omitzero"`       // what is logged all the same with Disable
}

// LogOnly says which requests are logged although logging is disabled. Those
// that failed in the server always are.
type LogOnly struct {
	Client   bool          `json:"client,omitempty"`   // log-4xx
	Slow     time.Duration `json:"slow,omitempty"`     // log-slow
	Zero     bool          `json:"zero,omitempty"`     // log-zero: no body
	Big      int64         `json:"big,omitempty"`      // log-big: bytes of the body
	Sendfile bool          `json:"sendfile,omitempty"` // log-sendfile
	IOError  bool          `json:"io_error,omitempty"` // log-ioerror
}
