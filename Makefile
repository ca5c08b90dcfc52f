# job-monitor: building, installing, testing. Needs GNU make and a Rust toolchain, nothing as root.
#
#   make             builds the program
#   make install     for you alone: program, service, manual page, completions (PREFIX, DESTDIR)
#   make uninstall   removes exactly those files
#   make demo        shows a job from document to result in a throw-away directory
#   make test        formatting, lints, every test
#   make bench       what it costs, as ratios against a floor; two minutes on a quiet machine

PREFIX ?= $(HOME)/.local
# The service belongs to a user, so its unit lies in the home directory whatever PREFIX is. Who packages the
# program for everybody sets UNITDIR to the system's directory of user units.
UNITDIR ?= $(HOME)/.config/systemd/user
CARGO ?= cargo
PROGRAM ?= $(or $(CARGO_TARGET_DIR),target)/release/job-monitor

# What is installed below PREFIX; `uninstall` reads the same list.
FILES = bin/job-monitor \
	share/man/man1/job-monitor.1 \
	share/bash-completion/completions/job-monitor \
	share/zsh/site-functions/_job-monitor \
	share/fish/vendor_completions.d/job-monitor.fish

# Each recipe is one shell script that ends at the first failure. Paths reach it through the environment, never
# as text of the script, so that blanks and quotes in them do no harm.
SHELL := /bin/sh
.SHELLFLAGS := -euc
.ONESHELL:
MAKEFLAGS += --no-builtin-rules --no-print-directory
.PHONY: build install uninstall demo test bench
.DEFAULT_GOAL := build

build:
	@$(CARGO) build --release --locked

test:
	@$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets --quiet -- -D warnings
	kept=$$(mktemp -d)
	trap 'rm -r "$$kept"' EXIT
	export JOB_MONITOR_SKIPPED=$$kept/skipped
	: > "$$JOB_MONITOR_SKIPPED"
	# Most tests wait for a daemon or an agent, so that twice as many as there are processors keep them busy.
	export RUST_TEST_THREADS=$${RUST_TEST_THREADS:-$$((2 * $$(nproc)))}
	{ $(CARGO) test --locked --no-fail-fast 2>&1 || touch "$$kept/failed"; } | tee "$$kept/log"
	[ -e "$$kept/failed" ] || exit 0
	# What failed stands far above by now, and some readers keep only the end.
	awk '/^---- .* ----$$/ { left = 40 } left-- > 0 { print substr($$0, 1, 1000) }' "$$kept/log"
	exit 1

bench:
	@$(CARGO) bench --locked --quiet --bench bench

demo: build
	@sh tests/demo.sh "$$program"

demo install: export program = $(PROGRAM)
install uninstall: export prefix = $(PREFIX)
install uninstall: export root = $(DESTDIR)
install uninstall: export unit = $(UNITDIR)/job-monitor.service

install: build
	@case $$prefix in
	/*) ;;
	*) echo "make install: PREFIX must be an absolute path, not '$$prefix'" >&2; exit 2 ;;
	esac
	to=$$root$$prefix

	# put MODE FILE COMMAND...: the command's output becomes FILE, all at once: a daemon that runs goes on with
	# the program that it was started from.
	put() {
	    mode=$$1 file=$$2
	    shift 2
	    mkdir -p "$$(dirname "$$file")"
	    "$$@" > "$$file.new" || { rm -f "$$file.new"; exit 1; }
	    chmod "$$mode" "$$file.new"
	    # systemd would warn of a unit that is written anew, though nothing in it has changed.
	    if [ ! -L "$$file" ] && cmp -s "$$file.new" "$$file"; then touch -r "$$file" "$$file.new"; fi
	    mv -fT "$$file.new" "$$file"
	}
	# The unit as it is here, but with the path of the program, quoted as systemd wants it.
	unit_text() {
	    awk '/^ExecStart=/ && ENVIRON["prefix"] != ENVIRON["HOME"] "/.local" {
	        path = ENVIRON["prefix"] "/bin/job-monitor"
	        gsub(/%/, "%%", path); gsub(/[\\"]/, "\\\\&", path)
	        if (path ~ /[^A-Za-z0-9\/._%+@,:=-]/) path = "\"" path "\""
	        $$0 = "ExecStart=" path " daemon"
	    }
	    { print }' job-monitor.service
	}
	# Somebody else's file in the place of one of ours may hold what its owner still needs.
	set_aside() {
	    mv --backup=numbered -T "$$1" "$$1.old"
	    replaced="$${replaced}Another $$2 was there; it is kept as $$1.old
	"
	}
	replaced=
	was_there=
	if [ -e "$$to/bin/job-monitor" ]; then
	    was_there=yes
	    if [ "$$(head -c 2 "$$to/bin/job-monitor")" = '#!' ]; then
	        set_aside "$$to/bin/job-monitor" "program, a script,"
	    fi
	fi
	if [ -e "$$root$$unit" ] && ! grep -q '^ExecStart=.*/job-monitor"\{0,1\} daemon$$' "$$root$$unit"; then
	    set_aside "$$root$$unit" "unit ($$(grep -m 1 '^ExecStart=' "$$root$$unit" || echo 'without ExecStart'))"
	fi

	# What the program prints itself comes first: one that does not run here replaces nothing.
	put 644 "$$to/share/man/man1/job-monitor.1" "$$program" man
	put 644 "$$to/share/bash-completion/completions/job-monitor" "$$program" completions bash
	put 644 "$$to/share/zsh/site-functions/_job-monitor" "$$program" completions zsh
	put 644 "$$to/share/fish/vendor_completions.d/job-monitor.fish" "$$program" completions fish
	put 755 "$$to/bin/job-monitor" cat "$$program"
	put 644 "$$root$$unit" unit_text

	echo "Installed: $$to/bin/job-monitor"
	echo "           $$root$$unit"
	echo "           manual page and completions (bash, zsh, fish) below $$to/share"
	printf %s "$$replaced"
	[ -z "$$root" ] || exit 0

	# From here on: what is left to do, by the person. Nothing is done behind their back.
	for other in "$${unit%/*}/task-monitor.service" /etc/systemd/system/task-monitor.service \
	    /etc/systemd/system/job-monitor.service; do
	    [ -e "$$other" ] || continue
	    case $$other in /etc/*) by='sudo systemctl' ;; *) by='systemctl --user' ;; esac
	    name=$${other##*/}
	    echo "An older monitor is still there: $$other"
	    echo "    If it serves the same projects, end it first: $$by disable --now $${name%.service}"
	done
	found=$$(command -v job-monitor || true)
	case :$$PATH: in
	*:"$$prefix/bin":*)
	    [ "$$found" -ef "$$prefix/bin/job-monitor" ] || echo "Another program comes first on your PATH: $$found" ;;
	*)
	    echo "$$prefix/bin is not on your PATH; in ~/.profile: PATH=\"$$prefix/bin:\$$PATH\"" ;;
	esac
	case $${SHELL-} in
	*/zsh) echo "For zsh, before compinit in ~/.zshrc: fpath+=(\"$$prefix/share/zsh/site-functions\")" ;;
	esac
	echo "Next:"
	echo "    systemctl --user daemon-reload"
	if systemctl --user --quiet is-active job-monitor 2>/dev/null; then
	    echo "    systemctl --user restart job-monitor        # until then the old program runs on"
	else
	    echo "    systemctl --user enable --now job-monitor"
	fi
	if [ "$$(loginctl show-user "$$(id -un)" --property=Linger --value 2>/dev/null)" != yes ]; then
	    echo "    loginctl enable-linger                      # it also runs while you are logged out; where that is"
	    echo "                                                # refused: sudo loginctl enable-linger $$(id -un)"
	fi
	if [ -z "$$was_there" ]; then
	    echo "    job-monitor register PATH                   # a project that it is to serve"
	fi
	if ! systemctl --user show-environment > /dev/null 2>&1; then
	    echo "No systemd user manager answers here; without one, run: job-monitor daemon"
	fi

uninstall:
	@for file in $(FILES); do
	    rm -f "$$root$$prefix/$$file"
	done
	rm -f "$$root$$unit"
	echo "Removed: $$root$$prefix/bin/job-monitor, its unit, manual page and completions"
	echo "Kept: settings, registry and state (~/.config/job-monitor, ~/.local/state/job-monitor), every project"
	[ -z "$$root" ] || exit 0
	if systemctl --user --quiet is-active job-monitor 2>/dev/null ||
	    systemctl --user --quiet is-enabled job-monitor 2>/dev/null; then
	    echo "Next:"
	    echo "    systemctl --user disable --now job-monitor  # it still runs, or would at the next login"
	    echo "    systemctl --user daemon-reload"
	fi
