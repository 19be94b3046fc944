package vassal

import (
	"os"
	"time"
)

// CGI says which programs answer requests, one process each: uWSGI's cgi and
// its kin.
type CGI struct {
	Mounts     []CGIMount     `json:"mounts"`
	Helpers    []CGIHelper    `json:"helpers,omitempty"`     // cgi-helper
	AllowedExt []string       `json:"allowed_ext,omitempty"` // cgi-allowed-ext; empty: every file
	Index      []string       `json:"index,omitempty"`       // cgi-index
	Safe       []string       `json:"safe,omitempty"`        // cgi-safe: directories that links may lead to
	Unset      []string       `json:"unset,omitempty"`       // cgi-unset
	Docroot    bool           `json:"docroot,omitempty"`     // cgi-from-docroot
	NoResolve  bool           `json:"no_resolve,omitempty"`  // cgi-dontresolve: a program is named by the link that leads to it
	LetRun     bool           `json:"let_run,omitempty"`     // cgi-do-not-kill-on-error
	Timeout    time.Duration  `json:"timeout"`               // between two reads or writes
	HeadBytes  int            `json:"head_bytes"`            // of a program's header fields (cgi-buffer-size)
	Processes  int            `json:"processes"`
	Threads    int            `json:"threads"`            // processes x threads programs run at once
	Harakiri   time.Duration  `json:"harakiri,omitempty"` // longest request; 0: none
	Limits     *ProcessLimits `json:"limits,omitempty"`
}

// CGIMount runs what is below Path for URLs below Mount.
type CGIMount struct {
	Mount string `json:"mount"` // empty: all that no other has
	Path  string `json:"path"`  // a directory, or the one program
	At    Origin `json:"at"`
}

// CGIHelper is a program that runs files with an extension.
type CGIHelper struct {
	Ext     string `json:"ext"`
	Command string `json:"command"` // a path, or a name that is looked for in PATH
	At      Origin `json:"at"`
}

// ProcessLimits are set on a process between fork and exec.
type ProcessLimits struct {
	Rlimits []Rlimit     `json:"rlimits,omitempty"`
	Nice    int          `json:"nice,omitempty"`
	Umask   *os.FileMode `json:"umask,omitempty"`
}
