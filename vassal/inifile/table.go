package inifile

// table is every option, grouped as in the documentation. It is data: edit it by
// hand, then run the package's tests with -update for the documents made from it.
var table = []Option{

	// The application.
	{Name: "wsgi-file", Aliases: "file", Group: "The application", Type: String, Class: Works, Tenant: true, Path: PathDir, Plugin: "python3", Since: "uwsgi 2.0", Doc: "Python file that holds the WSGI application."},
	{Name: "module", Aliases: "wsgi", Short: "w", Group: "The application", Type: String, Class: Works, Tenant: true, Plugin: "python3", Since: "uwsgi 2.0", Doc: "Python module with the WSGI application, as module or module:callable."},
	{Name: "callable", Group: "The application", Type: String, Default: "application", Class: Works, Tenant: true, Plugin: "python3", Since: "uwsgi 2.0", Doc: "Name of the WSGI callable in the module or file."},
	{Name: "home", Aliases: "virtualenv venv pyhome", Short: "H", Group: "The application", Type: String, Class: Works, Tenant: true, Path: PathRO, Plugin: "python3", Since: "uwsgi 2.0", Doc: "Directory of the virtual environment; its interpreter runs the app."},
	{Name: "pythonpath", Aliases: "python-path pp", Group: "The application", Type: String, Many: true, Class: Works, Tenant: true, Path: PathRO, Plugin: "python3", Since: "uwsgi 2.0", Doc: "Directory put at the front of the module search path; patterns are not expanded."},
	{Name: "pyargv", Group: "The application", Type: String, Class: Works, Tenant: true, Plugin: "python3", Since: "uwsgi 2.0", Doc: "Words for sys.argv of the app, separated by spaces."},
	{Name: "need-app", Group: "The application", Type: Bool, Class: Works, Tenant: true, Since: "uwsgi 2.0", Doc: "The start fails when the app cannot be loaded."},
	{Name: "chdir", Group: "The application", Type: String, Class: Works, Tenant: true, Path: PathAppDir, Since: "uwsgi 2.0", Doc: "The app's directory: visible read-write, and where its processes start."},
	{Name: "env", Group: "The application", Type: Keyval, Many: true, Class: Works, Tenant: true, Since: "uwsgi 2.0", Doc: "Variable for everything the vassal runs, NAME=value."},
	{Name: "unenv", Group: "The application", Type: String, Many: true, Class: Works, Tenant: true, Since: "uwsgi 2.0", Doc: "Takes a variable out of the environment that the lines before it made."},
	{Name: "processes", Aliases: "workers", Short: "p", Group: "The application", Type: Int, Default: "1", Class: Works, Tenant: true, Since: "uwsgi 2.0", Doc: "Number of worker processes."},
	{Name: "threads", Group: "The application", Type: Int, Default: "1", Class: Works, Tenant: true, Since: "uwsgi 2.0", Doc: "Number of threads in each worker process."},
	{Name: "lazy-apps", Group: "The application", Type: Bool, Class: Works, Tenant: true, Since: "uwsgi 2.0", Doc: "Load the app in each worker instead of once before they are forked."},
	{Name: "harakiri", Short: "t", Group: "The application", Type: Duration, Unit: "seconds", Default: "none", Class: Works, Tenant: true, Since: "uwsgi 2.0", Doc: "Longest time that one request may take; the worker is then replaced."},
	{Name: "max-requests", Short: "R", Group: "The application", Type: Int, Default: "none", Class: Works, Tenant: true, Since: "uwsgi 2.0", Doc: "A worker is replaced after this many requests."},
	{Name: "interpreter", Group: "The application", Type: String, Class: Works, Tenant: true, Path: PathRO, Since: "liege", Doc: "Interpreter that runs the workers, an absolute path; home is preferred."},

	// Listeners.
	{Name: "http", Aliases: "httprouter", Group: "Listeners", Type: Address, Many: true, Class: Works, Tenant: true, Path: PathSocket, Plugin: "http", Since: "uwsgi 2.0", Doc: "Serve HTTP/1.1 on this address."},
	{Name: "http-socket", Group: "Listeners", Type: Address, Many: true, Class: Works, Tenant: true, Path: PathSocket, Since: "uwsgi 2.0", Doc: "Serve HTTP/1.1 on this address; the same as http."},
	{Name: "http11-socket", Group: "Listeners", Type: Address, Many: true, Class: Works, Tenant: true, Path: PathSocket, Since: "uwsgi 2.0", Doc: "Serve HTTP/1.1 with keep-alive on this address; the same as http."},
	{Name: "socket", Short: "s", Group: "Listeners", Type: Address, Many: true, Class: Works, Tenant: true, Path: PathSocket, Since: "uwsgi 2.0", Doc: "Serve the protocol named by protocol on this address."},
	{Name: "uwsgi-socket", Short: "s", Group: "Listeners", Type: Address, Many: true, Class: Works, Tenant: true, Path: PathSocket, Since: "uwsgi 2.0", Doc: "Serve the uwsgi protocol on this address, for nginx uwsgi_pass and others."},
	{Name: "protocol", Aliases: "socket-protocol", Group: "Listeners", Type: String, Default: "uwsgi", Class: Works, Tenant: true, Since: "uwsgi 2.0", Doc: "What socket lines speak: uwsgi or http."},
	{Name: "chmod-socket", Aliases: "chmod", Short: "C", Group: "Listeners", Type: Mode, Class: Works, Tenant: true, Since: "uwsgi 2.0", Doc: "Mode of unix sockets; without a value 666, without the option 0777 less the umask."},
	{Name: "chown-socket", Group: "Listeners", Type: String, Class: Works, Tenant: true, Since: "uwsgi 2.0", Doc: "Owner of unix sockets as user, user:group or :group. In a tenant's file only a group that the tenant is in."},
	{Name: "listen", Short: "l", Group: "Listeners", Type: Int, Default: "1024", Class: Works, Tenant: true, Since: "uwsgi 2.0", Doc: "Length of the queue of connections that wait to be accepted; cut at the kernel's somaxconn."},
	{Name: "abstract-socket", Short: "a", Group: "Listeners", Type: Bool, Class: Always, Effect: "every socket path is taken as written; write @name for an abstract socket", Tenant: true, Since: "uwsgi 2.0", Doc: "Treat socket paths as abstract names."},
	{Name: "stats", Aliases: "stats-server", Group: "Listeners", Type: Address, Many: true, Class: Works, Tenant: true, Path: PathSocket, Since: "uwsgi 2.0", Doc: "Serve counters as JSON on this address."},

	// Limits of requests.
	{Name: "buffer-size", Short: "b", Group: "Limits of requests", Type: Int, Unit: "bytes", Default: "32768", Class: Works, Tenant: true, Since: "uwsgi 2.0", Doc: "Longest request line with all header fields."},
	{Name: "limit-post", Group: "Limits of requests", Type: Int, Unit: "bytes", Default: "none", Class: Works, Tenant: true, Since: "uwsgi 2.0", Doc: "Longest request body."},
	{Name: "http-timeout", Group: "Limits of requests", Type: Duration, Unit: "seconds", Default: "60", Class: Works, Tenant: true, Plugin: "http", Since: "uwsgi 2.0", Doc: "Longest pause while an answer is written, and between two requests of one connection."},
	{Name: "http-headers-timeout", Group: "Limits of requests", Type: Duration, Unit: "seconds", Default: "15", Class: Works, Tenant: true, Plugin: "http", Since: "uwsgi 2.0", Doc: "Longest time from the first byte of a request to the end of its header."},
	{Name: "socket-timeout", Short: "z", Group: "Limits of requests", Type: Duration, Unit: "seconds", Default: "30", Class: Works, Tenant: true, Since: "uwsgi 2.0", Doc: "Longest pause while a request body is read."},
	{Name: "max-connections", Group: "Limits of requests", Type: String, Default: "4096", Class: Works, Tenant: true, Since: "liege", Doc: "Connections served at once, over all listeners of the vassal."},

	// Static files.
	{Name: "check-static", Aliases: "static-check", Group: "Static files", Type: String, Many: true, Class: Works, Tenant: true, Path: PathHost, Since: "uwsgi 2.0", Doc: "Directory in which a file named by the URL's path is looked for before the app is asked."},
	{Name: "static-map", Group: "Static files", Type: Keyval, Many: true, Class: Works, Tenant: true, Path: PathHost, Since: "uwsgi 2.0", Doc: "Serve a directory below a URL prefix, /prefix=directory."},
	{Name: "static-map2", Group: "Static files", Type: Keyval, Many: true, Class: Works, Tenant: true, Path: PathHost, Since: "uwsgi 2.0", Doc: "Like static-map, with the prefix as part of the file's path."},
	{Name: "static-index", Group: "Static files", Type: String, Many: true, Class: Works, Tenant: true, Since: "uwsgi 2.0", Doc: "File served for a directory."},
	{Name: "static-skip-ext", Group: "Static files", Type: String, Many: true, Class: Works, Tenant: true, Since: "uwsgi 2.0", Doc: "Suffix of paths that are never served as files."},
	{Name: "static-safe", Group: "Static files", Type: String, Many: true, Class: Works, Tenant: true, Path: PathHost, Since: "uwsgi 2.0", Doc: "Directory that links out of a served directory may lead to."},
	{Name: "mimefile", Aliases: "mime-file", Group: "Static files", Type: String, Many: true, Class: Works, Tenant: true, Path: PathRO, Since: "uwsgi 2.0", Doc: "Further file of MIME types."},

	// Identity.
	{Name: "uid", Group: "Identity", Type: String, Class: Works, Tenant: true, Since: "uwsgi 2.0", Doc: "User that the app runs as, a name or a number; auto gives the vassal a uid of its own. In a tenant's file only the owner's name."},
	{Name: "gid", Group: "Identity", Type: String, Default: "the user's own", Class: Works, Tenant: true, Since: "uwsgi 2.0", Doc: "Group that the app runs as. In a tenant's file a group of the owner."},
	{Name: "add-gid", Aliases: "add-gids", Group: "Identity", Type: String, Many: true, Class: Works, Since: "uwsgi 2.0", Doc: "Further group of the app."},
	{Name: "no-initgroups", Group: "Identity", Type: Bool, Class: Works, Tenant: true, Since: "uwsgi 2.0", Doc: "Give the app no supplementary groups."},
	{Name: "umask", Group: "Identity", Type: Mode, Default: "022", Class: Works, Tenant: true, Since: "uwsgi 2.0", Doc: "File mode bits that the app's new files do not get."},
	{Name: "hostname", Group: "Identity", Type: String, Default: "the vassal's name", Class: Works, Tenant: true, Since: "liege", Doc: "Host name inside, and SERVER_NAME."},
	{Name: "selinux-context", Group: "Identity", Type: String, Class: Works, Since: "liege", Doc: "SELinux context of the core and the workers; the same as hook-as-user = callret:setcon."},

	// What the app sees.
	{Name: "bind", Group: "What the app sees", Type: String, Many: true, Class: Works, Tenant: true, Path: PathHost, Since: "liege", Doc: "Path that is made visible, PATH[:ro] or SOURCE:TARGET[:ro|rw]; several to a line. In a tenant's file within [ceilings] bind."},
	{Name: "auto-bind", Group: "What the app sees", Type: Bool, Default: "true", Class: Works, Tenant: true, Since: "liege", Doc: "Make the paths that other options name visible without a bind line."},
	{Name: "net", Group: "What the app sees", Type: String, Default: "none", Class: Works, Tenant: true, Since: "liege", Doc: "Network: none (only lo of its own), private (the same) or host. In a tenant's file host needs [ceilings] net."},

	// Resource limits.
	{Name: "memory-max", Group: "Resource limits", Type: Size, Unit: "bytes", Default: "none", Class: Works, Tenant: true, Since: "liege", Doc: "Memory of the whole vassal, the core included; 512M, 2G."},
	{Name: "cpu-max", Group: "Resource limits", Type: Number, Unit: "CPUs", Default: "none", Class: Works, Tenant: true, Since: "liege", Doc: "CPUs of the whole vassal; 1.5 is one and a half."},
	{Name: "pids-max", Group: "Resource limits", Type: Int, Default: "none", Class: Works, Tenant: true, Since: "liege", Doc: "Processes and threads of the whole vassal, the core's own included."},
	{Name: "limit-as", Group: "Resource limits", Type: Int, Unit: "MB", Default: "none", Class: Works, Tenant: true, Since: "uwsgi 2.0", Doc: "Address space of each worker."},
	{Name: "limit-data", Group: "Resource limits", Type: Int, Unit: "MB", Default: "none", Class: Works, Tenant: true, Since: "liege", Doc: "Data segment of each worker."},
	{Name: "limit-stack", Group: "Resource limits", Type: Int, Unit: "MB", Default: "none", Class: Works, Tenant: true, Since: "liege", Doc: "Stack of each worker."},
	{Name: "limit-cpu", Group: "Resource limits", Type: Int, Unit: "seconds", Default: "none", Class: Works, Tenant: true, Since: "liege", Doc: "CPU time of each worker; it is killed after that and replaced."},
	{Name: "max-fd", Group: "Resource limits", Type: Int, Default: "the host's", Class: Works, Tenant: true, Since: "uwsgi 2.0", Doc: "Open files of each worker; more than the host's hard limit is cut."},
	{Name: "prio", Group: "Resource limits", Type: Int, Default: "0", Class: Works, Tenant: true, Since: "uwsgi 2.0", Doc: "Nice value of each worker; a tenant cannot go below 0."},
	{Name: "cpu-affinity", Group: "Resource limits", Type: Int, Class: Works, Tenant: true, Since: "uwsgi 2.0", Doc: "CPUs that each worker is tied to, in turn."},
	{Name: "limit-nproc", Group: "Resource limits", Type: Int, Default: "none", Class: Otherwise, Effect: "it becomes pids-max, with the core's own threads added, because the kernel's limit counts a user over the whole host", Tenant: true, Since: "uwsgi 2.0", Doc: "Number of processes."},

	// Logs and other files.
	{Name: "logto", Group: "Logs and other files", Type: String, Class: Works, Tenant: true, Path: PathLog, Since: "uwsgi 2.0", Doc: "File for the vassal's output instead of the default log; /dev/stdout and /dev/stderr mean the default log."},
	{Name: "logto2", Group: "Logs and other files", Type: String, Class: Works, Tenant: true, Path: PathLog, Since: "uwsgi 2.0", Doc: "Like logto."},
	{Name: "log-maxsize", Group: "Logs and other files", Type: Int, Unit: "bytes", Default: "10485760", Class: Works, Tenant: true, Since: "uwsgi 2.0", Doc: "Size at which the log is rotated."},
	{Name: "log-backupname", Group: "Logs and other files", Type: String, Class: Works, Tenant: true, Path: PathLog, Since: "uwsgi 2.0", Doc: "Name of the rotated log."},
	{Name: "disable-logging", Short: "L", Group: "Logs and other files", Type: Bool, Class: Works, Tenant: true, Since: "uwsgi 2.0", Doc: "Write no line for each request."},
	{Name: "log-format", Aliases: "logformat", Group: "Logs and other files", Type: String, Class: Works, Tenant: true, Since: "uwsgi 2.0", Doc: "Format of the line for each request."},
	{Name: "touch-reload", Group: "Logs and other files", Type: String, Many: true, Class: Works, Tenant: true, Path: PathWatch, Since: "uwsgi 2.0", Doc: "File whose change of time reloads the vassal."},
	{Name: "daemonize", Short: "d", Group: "Logs and other files", Type: String, Class: Otherwise, Effect: "the vassal stays in the foreground of its Emperor and the file is its log, as logto", Tenant: true, Path: PathLog, Since: "uwsgi 2.0", Doc: "Detach, and log to this file."},
	{Name: "daemonize2", Group: "Logs and other files", Type: String, Class: Otherwise, Effect: "the vassal stays in the foreground of its Emperor and the file is its log, as logto", Tenant: true, Path: PathLog, Since: "uwsgi 2.0", Doc: "Detach after the apps are loaded, and log to this file."},
	{Name: "pidfile", Group: "Logs and other files", Type: String, Class: Otherwise, Effect: "the host's pid of the sandbox's first process is written; HUP to it reloads, TERM ends that generation: use liege stop NAME to stop", Tenant: true, Path: PathLog, Since: "uwsgi 2.0", Doc: "File for the process id."},
	{Name: "pidfile2", Group: "Logs and other files", Type: String, Class: Otherwise, Effect: "the host's pid of the sandbox's first process is written; HUP to it reloads, TERM ends that generation: use liege stop NAME to stop", Tenant: true, Path: PathLog, Since: "uwsgi 2.0", Doc: "File for the process id, written after the privileges are dropped."},
	{Name: "safe-pidfile", Group: "Logs and other files", Type: String, Class: Otherwise, Effect: "the host's pid of the sandbox's first process is written; HUP to it reloads, TERM ends that generation: use liege stop NAME to stop", Tenant: true, Path: PathLog, Since: "uwsgi 2.0", Doc: "File for the process id that must not exist."},
	{Name: "safe-pidfile2", Group: "Logs and other files", Type: String, Class: Otherwise, Effect: "the host's pid of the sandbox's first process is written; HUP to it reloads, TERM ends that generation: use liege stop NAME to stop", Tenant: true, Path: PathLog, Since: "uwsgi 2.0", Doc: "Like safe-pidfile, after the privileges are dropped."},
	{Name: "touch-chain-reload", Group: "Logs and other files", Type: String, Many: true, Class: Otherwise, Effect: "a new generation starts, takes over when it is ready, and the old one drains", Tenant: true, Path: PathWatch, Since: "uwsgi 2.0", Doc: "File whose change of time reloads the workers one after the other."},
	{Name: "touch-workers-reload", Group: "Logs and other files", Type: String, Many: true, Class: Otherwise, Effect: "a new generation starts, takes over when it is ready, and the old one drains", Tenant: true, Path: PathWatch, Since: "uwsgi 2.0", Doc: "File whose change of time reloads the workers."},
	{Name: "fs-reload", Aliases: "fs-brutal-reload", Group: "Logs and other files", Type: String, Many: true, Class: Otherwise, Effect: "a new generation starts, takes over when it is ready, and the old one drains", Tenant: true, Path: PathWatch, Since: "uwsgi 2.0", Doc: "Path whose change reloads the instance."},

	// Life of a vassal.
	{Name: "ready-timeout", Group: "Life of a vassal", Type: Duration, Unit: "seconds", Default: "60", Class: Works, Tenant: true, Since: "liege", Doc: "Longest time from the start of a generation until it is ready to serve."},
	{Name: "drain-timeout", Group: "Life of a vassal", Type: Duration, Unit: "seconds", Default: "60", Class: Works, Tenant: true, Since: "liege", Doc: "Time that requests get to finish when a generation ends."},
	{Name: "reload-mercy", Group: "Life of a vassal", Type: Duration, Unit: "seconds", Default: "60", Class: Works, Tenant: true, Since: "uwsgi 2.0", Doc: "The same as drain-timeout."},
	{Name: "worker-reload-mercy", Group: "Life of a vassal", Type: Duration, Unit: "seconds", Default: "60", Class: Works, Tenant: true, Since: "uwsgi 2.0", Doc: "The same as drain-timeout."},
	{Name: "backoff-min", Group: "Life of a vassal", Type: Duration, Unit: "seconds", Default: "1", Class: Works, Since: "liege", Doc: "Wait after the first failed start; it doubles with each further one."},
	{Name: "backoff-max", Group: "Life of a vassal", Type: Duration, Unit: "seconds", Default: "180", Class: Works, Since: "liege", Doc: "Longest wait between two failed starts."},
	{Name: "stable-after", Group: "Life of a vassal", Type: Duration, Unit: "seconds", Default: "10", Class: Works, Since: "liege", Doc: "A generation that served this long makes earlier failures forgotten."},
	{Name: "overlap", Group: "Life of a vassal", Type: String, Default: "auto", Class: Works, Tenant: true, Since: "liege", Doc: "Whether a new generation starts beside the old one: auto, yes, or no (the old one drains first)."},
	{Name: "procname-prefix", Group: "Life of a vassal", Type: String, Class: Works, Tenant: true, Since: "uwsgi 2.0", Doc: "Text before the process titles of the workers."},
	{Name: "procname-prefix-spaced", Group: "Life of a vassal", Type: String, Class: Works, Tenant: true, Since: "uwsgi 2.0", Doc: "Text and a space before the process titles of the workers."},
	{Name: "procname", Group: "Life of a vassal", Type: String, Class: Works, Tenant: true, Since: "uwsgi 2.0", Doc: "Process title of the workers, as it is."},

	// Hooks.
	{Name: "hook-as-root", Group: "Hooks", Type: Action, Many: true, Class: Works, Since: "uwsgi 2.0", Doc: "Action inside the sandbox before the privileges are dropped."},
	{Name: "hook-as-user", Group: "Hooks", Type: Action, Many: true, Class: Works, Since: "uwsgi 2.0", Doc: "Action inside the sandbox after the privileges are dropped; callret:setcon CONTEXT is always the last."},
	{Name: "exec-as-root", Group: "Hooks", Type: String, Many: true, Class: Works, Since: "uwsgi 2.0", Doc: "Shell command inside the sandbox before the privileges are dropped."},
	{Name: "exec-as-user", Group: "Hooks", Type: String, Many: true, Class: Works, Since: "uwsgi 2.0", Doc: "Shell command inside the sandbox after the privileges are dropped."},
	{Name: "mount-as-root", Group: "Hooks", Type: String, Many: true, Class: Works, Since: "uwsgi 2.0", Doc: "Mount inside the sandbox, as fstype source target [flags]."},
	{Name: "umount-as-root", Group: "Hooks", Type: String, Many: true, Class: Works, Since: "uwsgi 2.0", Doc: "Unmount inside the sandbox."},
}
