package vassal

import "time"

// Ruby is the app of Ruby workers.
type Ruby struct {
	File          string   `json:"file"`                     // rack: a config.ru
	Lib           []string `json:"lib,omitempty"`            // rb-lib, in order
	Require       []string `json:"require,omitempty"`        // rb-require: before the app is loaded
	SharedRequire []string `json:"shared_require,omitempty"` // shared-rb-require: once, whatever lazy-apps says
	GCFreq        int      `json:"gc_freq,omitempty"`        // requests between two forced collections; 0: as Ruby does
	EarlyHints    bool     `json:"early_hints,omitempty"`    // rack-early-hints: the app may send 103 before its answer
	At            Origin   `json:"at"`                       // the line that names the app
	Key           string   `json:"key,omitempty"`            // its option; empty: rack
}

// Perl is the app of Perl workers.
type Perl struct {
	File         string   `json:"file"`                     // psgi
	Lib          []string `json:"lib,omitempty"`            // perl-local-lib and its kin
	Args         []string `json:"args,omitempty"`           // @ARGV
	Exec         []string `json:"exec,omitempty"`           // perl-exec: before the app is loaded
	ExecPostFork []string `json:"exec_post_fork,omitempty"` // perl-exec-post-fork: in each worker
	IO           bool     `json:"io,omitempty"`             // psgi-enable-psgix-io: the app may take the connection over

	Watch     time.Duration `json:"watch,omitempty"`     // perl-auto-reload: how often the code's files are looked at; 0: not
	Unwatched []string      `json:"unwatched,omitempty"` // files, or modules as in %INC, that do not count

	At  Origin `json:"at"`            // the line that names the app
	Key string `json:"key,omitempty"` // its option; empty: psgi
}
