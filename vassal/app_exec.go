package vassal

import "time"

// Exec is a program that serves HTTP by itself: exec and its kin. Every copy
// is told where to listen: PORT and LIEGE_SOCKET in its environment, and in
// the words of the command where they stand there as $NAME or ${NAME}.
type Exec struct {
	Command      []string       `json:"command"`         // words; the first is an absolute path
	Port         int            `json:"port,omitempty"`  // exec-port; 0: each copy gets a free one
	Ready        string         `json:"ready,omitempty"` // exec-ready: a path that answers below 400; empty: it accepts connections
	H2C          bool           `json:"h2c,omitempty"`   // exec-protocol = h2c: it is spoken to by HTTP/2 without TLS
	Processes    int            `json:"processes"`
	MaxRequests  int            `json:"max_requests,omitempty"`
	Harakiri     time.Duration  `json:"harakiri,omitempty"`
	StartTimeout time.Duration  `json:"start_timeout"`
	Limits       *ProcessLimits `json:"limits,omitempty"`
	At           Origin         `json:"at"`
}

// PHP is the PHP part: uWSGI's php-docroot and its kin, carried out by the
// processes of one php-cgi.
type PHP struct {
	Program string `json:"program"`           // php-cgi, absolute
	Version string `json:"version,omitempty"` // "8.2", as plugin = php82 asks; empty: any
	Docroot string `json:"docroot,omitempty"` // php-docroot; empty: the request's DOCUMENT_ROOT, else the app's directory

	// The lines of Docroot, App and Fallback: the Emperor's concern alone.
	DocrootAt, AppAt, FallbackAt Origin `json:"-"`

	Index          []string `json:"index,omitempty"`           // php-index
	AllowedExt     []string `json:"allowed_ext"`               // php-allowed-ext; never empty
	AllowedDocroot []string `json:"allowed_docroot,omitempty"` // php-allowed-docroot: where else a script may lie
	AllowedScript  []string `json:"allowed_script,omitempty"`  // php-allowed-script; empty: every one

	App       string   `json:"app,omitempty"`        // php-app: answers everything
	AppQS     string   `json:"app_qs,omitempty"`     // php-app-qs
	AppBypass []string `json:"app_bypass,omitempty"` // php-app-bypass: regular expressions of URIs that App does not get

	Fallback   string `json:"fallback,omitempty"`    // php-fallback: answers what is not there
	Fallback2  string `json:"fallback2,omitempty"`   // php-fallback2: the same, relative to the document root
	FallbackQS string `json:"fallback_qs,omitempty"` // php-fallback-qs: the variable of the query that gets the path

	INI        string   `json:"ini,omitempty"`        // php-ini
	INIAppend  []string `json:"ini_append,omitempty"` // php-ini-append
	Set        []string `json:"set,omitempty"`        // php-set, K=V
	Vars       []string `json:"vars,omitempty"`       // php-var, K=V
	Software   string   `json:"software,omitempty"`   // php-server-software
	Before     []string `json:"before,omitempty"`     // php-exec-before: code
	After      []string `json:"after,omitempty"`      // php-exec-after: code
	DumpConfig bool     `json:"dump_config,omitempty"`

	Processes    int            `json:"processes"`
	MaxRequests  int            `json:"max_requests,omitempty"`
	Harakiri     time.Duration  `json:"harakiri,omitempty"`
	StartTimeout time.Duration  `json:"start_timeout"`
	Limits       *ProcessLimits `json:"limits,omitempty"`
	At           Origin         `json:"at"`
}

// Daemon is a program that runs beside the app: attach-daemon and its kin.
type Daemon struct {
	Command string         `json:"command"`            // for /bin/sh -c
	Control bool           `json:"control,omitempty"`  // its end ends the instance
	PidFile string         `json:"pid_file,omitempty"` // written, and not believed
	Forks   bool           `json:"forks,omitempty"`    // it goes into the background by itself, and writes PidFile
	Stop    int            `json:"stop,omitempty"`     // the signal that ends it; 0: SIGTERM
	Reload  int            `json:"reload,omitempty"`   // the signal when a file of Touch has changed; 0: it is started anew
	Touch   []string       `json:"touch,omitempty"`
	Dir     string         `json:"dir,omitempty"` // where it starts; empty: the app's directory
	Limits  *ProcessLimits `json:"limits,omitempty"`
	At      Origin         `json:"at"`
}
