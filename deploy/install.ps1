# Installs a flawscope station from the bundle that this file lies in, or upgrades it, without a network. In a
# PowerShell of an administrator:
#
#     powershell -ExecutionPolicy Bypass -File install.ps1
#
# Every version has a folder of its own below C:\flawscope, and the service runs the one it was installed with.
# Before an upgrade, while the station runs, its tables are copied into C:\flawscope\backups. Going back:
#
#     powershell -ExecutionPolicy Bypass -File C:\flawscope\VERSION\install.ps1 back
param([string]$What = "install")
$ErrorActionPreference = "Stop"
$root = "C:\flawscope"
$settings = "$root\station.yaml"
$here = Split-Path -Parent $MyInvocation.MyCommand.Path
$current = if (Test-Path "$root\current.txt") { (Get-Content "$root\current.txt").Trim() } else { "" }

function Invoke-Checked([string]$failure, [scriptblock]$call) {
    & $call
    if ($LASTEXITCODE -ne 0) { throw $failure }
}
function Stop-Station { if (Get-Service flawscope -ErrorAction SilentlyContinue) { Stop-Service flawscope } }
function Switch-Version([string]$version) {
    # pywin32's service is registered with the Python that runs it
    Invoke-Checked "the service cannot be installed" {
        & "$root\$version\Scripts\python.exe" "$root\$version\windows_service.py" --startup auto install
    }
    Set-Content "$root\current.txt" $version
    Start-Service flawscope
}

if ($What -eq "back") {
    if (-not (Test-Path "$root\$current\BEFORE")) { throw "version $current is the first one here" }
    $old, $backup = Get-Content "$root\$current\BEFORE"
    Stop-Station
    & "$root\$old\Scripts\flawscope.exe" station user list --settings $settings *> $null
    if ($LASTEXITCODE -ne 0) {
        Invoke-Checked "the tables of before cannot be restored from $backup" {
            & "$root\$current\Scripts\flawscope.exe" station restore $backup --tables --settings $settings
        }
    }
    Switch-Version $old
    Write-Output "version $old runs again"
    exit
}

$version = (Get-Content "$here\VERSION").Trim()
if ($version -eq $current) { throw "version $version is installed already" }
foreach ($line in Get-Content "$here\SHA256SUMS") {
    $sum, $file = $line -split "  ", 2
    if ((Get-FileHash "$here\$file" -Algorithm SHA256).Hash -ne $sum) { throw "the bundle is damaged: $file" }
}
if (Test-Path "$root\$version") { Remove-Item -Recurse "$root\$version" }
New-Item -ItemType Directory -Force $root, "$root\backups" | Out-Null
# the folder's name ends in the version of Python that the wheels are for: -py312
$python = if ($here -match '-py3(\d+)$') { "-3.$($Matches[1])" } else { "-3" }
Invoke-Checked "``py $python`` is missing: install that Python first" { & py $python -m venv "$root\$version" }
$wheel = (Get-Item "$here\wheels\flawscope-*.whl").FullName
$extras = "$(Get-Content "$here\EXTRAS")".Trim()
    if ($extras) { $extras = "[$extras]" }
Invoke-Checked "the wheels do not fit this machine, or the disk is full: nothing was changed" {
    & "$root\$version\Scripts\python.exe" -m pip install --quiet --no-index --find-links "$here\wheels" "$wheel$extras" flawscope-station "flawscope-line[plc]" pywin32
}
Copy-Item "$here\install.ps1", "$here\windows_service.py" "$root\$version"
# without products it opens the page where the first one is made
if (-not (Test-Path $settings)) { Set-Content $settings "store: store" }
if ($current) {
    # the station runs on meanwhile: an upgrade changes tables, and neither pictures nor models
    $backup = "$root\backups\before-$version-$(Get-Date -Format yyyyMMddTHHmmss).tar"
    Invoke-Checked "the tables could not be copied: version $current goes on" {
        & "$root\$version\Scripts\flawscope.exe" station backup $backup --tables --settings $settings
    }
    Set-Content "$root\$version\BEFORE" $current, $backup
    Stop-Station
}
Switch-Version $version
Write-Output "version $version is installed"
