"""Headers of a 3D FLAIR as an MR scanner writes them, classic (PS3.3 A.4) and Enhanced (PS3.3 A.36), without geometry and identity."""

from __future__ import annotations

from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID, EnhancedMRImageStorage, MRImageStorage

# Timing of a T2-weighted 3D turbo-spin-echo FLAIR, in milliseconds.
REPETITION_TIME = 5000
ECHO_TIME = 390
INVERSION_TIME = 1800
ECHO_TRAIN_LENGTH = 278


def _dataset(**elements: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    return _dataset(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def _common_header() -> Dataset:
    """Patient, study, series and equipment, obviously synthetic."""
    return _dataset(
        SpecificCharacterSet="ISO_IR 192",
        StudyDate="20200101",
        SeriesDate="20200101",
        AcquisitionDate="20200101",
        ContentDate="20200101",
        StudyTime="120000",
        SeriesTime="120100",
        AcquisitionTime="120200",
        ContentTime="120300",
        AccessionNumber="",
        Modality="MR",
        Manufacturer="Leukoscope",
        InstitutionName="Synthetic data, no patient",
        ReferringPhysicianName="",
        StudyDescription="Phantom head",
        ManufacturerModelName="Phantom scanner",
        PatientBirthDate="",
        PatientSex="O",
        PatientIdentityRemoved="YES",
        DeidentificationMethod="Synthetic phantom",
        DeviceSerialNumber="1",
        SoftwareVersions="1",
        PatientPosition="HFS",
        StudyID="1",
        SeriesNumber=1,
        PositionReferenceIndicator="",
    )


def classic_header() -> Dataset:
    """One slice: MR Image Storage."""
    dataset = _common_header()
    dataset.update(
        _dataset(
            SOPClassUID=MRImageStorage,
            ImageType=["ORIGINAL", "PRIMARY", "M", "ND"],
            BodyPartExamined="BRAIN",
            ScanningSequence=["SE", "IR"],
            SequenceVariant=["SK", "SP", "MP"],
            ScanOptions="",
            MRAcquisitionType="3D",
            SequenceName="spcir_278",
            RepetitionTime=REPETITION_TIME,
            EchoTime=ECHO_TIME,
            InversionTime=INVERSION_TIME,
            EchoTrainLength=ECHO_TRAIN_LENGTH,
            MagneticFieldStrength=3,
            FlipAngle=120,
            AcquisitionNumber=1,
        )
    )
    return dataset


def describe_pixels(dataset: Dataset, *, rows: int, columns: int, highest: int) -> None:
    """Unsigned 16-bit grey values (PS3.3 C.7.6.3), and a window that shows them all."""
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows = rows
    dataset.Columns = columns
    dataset.BitsAllocated = 16
    dataset.BitsStored = 12 if highest < 4096 else 16
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = 0
    if dataset.SOPClassUID == MRImageStorage:
        dataset.WindowCenter = max(1, highest // 2)
        dataset.WindowWidth = max(2, highest)


def enhanced_header(dimension_organization: UID) -> Dataset:
    """A multi-frame object: Enhanced MR Image Storage."""
    dataset = _common_header()
    organization = _dataset(DimensionOrganizationUID=dimension_organization)
    dataset.update(
        _dataset(
            SOPClassUID=EnhancedMRImageStorage,
            ImageType=["ORIGINAL", "PRIMARY", "FLUID_ATTENUATED", "NONE"],
            AcquisitionDateTime="20200101120200",
            AcquisitionDuration=300.0,
            AcquisitionNumber=1,
            AcquisitionContextSequence=[],
            AcquisitionContrast="FLUID_ATTENUATED",
            PixelPresentation="MONOCHROME",
            VolumetricProperties="VOLUME",
            VolumeBasedCalculationTechnique="NONE",
            ComplexImageComponent="MAGNITUDE",
            ContentQualification="RESEARCH",
            ResonantNucleus="1H",
            KSpaceFiltering="NONE",
            MagneticFieldStrength=3.0,
            ApplicableSafetyStandardAgency="IEC",
            BurnedInAnnotation="NO",
            LossyImageCompression="00",
            PresentationLUTShape="IDENTITY",
            PulseSequenceName="spcir_278",
            MRAcquisitionType="3D",
            EchoPulseSequence="SPIN",
            MultipleSpinEcho="YES",
            MultiPlanarExcitation="NO",
            PhaseContrast="NO",
            TimeOfFlightContrast="NO",
            SteadyStatePulseSequence="NONE",
            EchoPlanarPulseSequence="NO",
            SaturationRecovery="NO",
            SpectrallySelectedSuppression="NONE",
            OversamplingPhase="NONE",
            GeometryOfKSpaceTraversal="RECTILINEAR",
            SegmentedKSpaceTraversal="PARTIAL",
            RectilinearPhaseEncodeReordering="LINEAR",
            CoverageOfKSpace="FULL",
            NumberOfKSpaceTrajectories=1,
            DimensionOrganizationSequence=[organization],
            DimensionIndexSequence=[
                _dimension(dimension_organization, "StackID", "Stack ID"),
                _dimension(dimension_organization, "InStackPositionNumber", "In-Stack Position Number"),
            ],
        )
    )
    return dataset


def _dimension(organization: UID, keyword: str, label: str) -> Dataset:
    pointers = {"StackID": 0x00209056, "InStackPositionNumber": 0x00209057}
    return _dataset(
        DimensionOrganizationUID=organization,
        DimensionIndexPointer=pointers[keyword],
        FunctionalGroupPointer=0x00209111,
        DimensionDescriptionLabel=label,
    )


def shared_groups(grid: Dataset) -> Dataset:
    """Functional groups that hold for every frame (PS3.3 C.8.13.5)."""
    measures = _dataset(PixelSpacing=grid.PixelSpacing, SliceThickness=grid.SliceThickness)
    measures.SpacingBetweenSlices = grid.SliceThickness
    anatomy = _dataset(AnatomicRegionSequence=[_code("12738006", "SCT", "Brain")], FrameLaterality="U")
    groups = _dataset(
        PixelMeasuresSequence=[measures],
        PlaneOrientationSequence=[_dataset(ImageOrientationPatient=grid.ImageOrientationPatient)],
        FrameAnatomySequence=[anatomy],
        PixelValueTransformationSequence=[_dataset(RescaleIntercept=0, RescaleSlope=1, RescaleType="US")],
        FrameVOILUTSequence=[_dataset(WindowCenter=500, WindowWidth=1000)],
    )
    groups.update(_mr_groups())
    return groups


def _mr_groups() -> Dataset:
    timing = _dataset(
        RepetitionTime=REPETITION_TIME,
        EchoTrainLength=ECHO_TRAIN_LENGTH,
        FlipAngle=120,
        RFEchoTrainLength=ECHO_TRAIN_LENGTH,
        GradientEchoTrainLength=0,
        SpecificAbsorptionRateSequence=[_dataset(SpecificAbsorptionRateDefinition="IEC_HEAD", SpecificAbsorptionRateValue=0.5)],
        OperatingModeSequence=[
            _dataset(OperatingModeType="STATIC FIELD", OperatingMode="IEC_NORMAL"),
            _dataset(OperatingModeType="RF", OperatingMode="IEC_NORMAL"),
            _dataset(OperatingModeType="GRADIENT", OperatingMode="IEC_NORMAL"),
        ],
        GradientOutputType="DB_DT",
        GradientOutput=50.0,
    )
    modifier = _dataset(
        InversionRecovery="YES",
        InversionTimes=[float(INVERSION_TIME)],
        FlowCompensation="NONE",
        Spoiling="NONE",
        T2Preparation="NO",
        SpectrallySelectedExcitation="NONE",
        SpatialPresaturation="NONE",
        PartialFourier="NO",
        ParallelAcquisition="NO",
    )
    imaging = _dataset(
        MagnetizationTransfer="NONE", BloodSignalNulling="NO", Tagging="NONE", TransmitterFrequency=123.2, PixelBandwidth=750
    )
    frame_type = _dataset(
        FrameType=["ORIGINAL", "PRIMARY", "FLUID_ATTENUATED", "NONE"],
        PixelPresentation="MONOCHROME",
        VolumetricProperties="VOLUME",
        VolumeBasedCalculationTechnique="NONE",
        ComplexImageComponent="MAGNITUDE",
        AcquisitionContrast="FLUID_ATTENUATED",
    )
    return _dataset(
        MRImageFrameTypeSequence=[frame_type],
        MRTimingAndRelatedParametersSequence=[timing],
        MREchoSequence=[_dataset(EffectiveEchoTime=float(ECHO_TIME))],
        MRModifierSequence=[modifier],
        MRImagingModifierSequence=[imaging],
        MRFOVGeometrySequence=[_field_of_view()],
        MRAveragesSequence=[_dataset(NumberOfAverages=1)],
        MRReceiveCoilSequence=[_receive_coil()],
        MRTransmitCoilSequence=[_dataset(TransmitCoilName="BODY", TransmitCoilManufacturerName="Leukoscope", TransmitCoilType="BODY")],
    )


def _field_of_view() -> Dataset:
    return _dataset(
        InPlanePhaseEncodingDirection="ROW",
        MRAcquisitionFrequencyEncodingSteps=256,
        MRAcquisitionPhaseEncodingStepsInPlane=256,
        MRAcquisitionPhaseEncodingStepsOutOfPlane=176,
        PercentSampling=100,
        PercentPhaseFieldOfView=100,
    )


def _receive_coil() -> Dataset:
    return _dataset(
        ReceiveCoilName="HEAD",
        ReceiveCoilManufacturerName="Leukoscope",
        ReceiveCoilType="VOLUME",
        QuadratureReceiveCoil="NO",
    )


def frame_groups(position: list[str], *, rank: int, number: int) -> Dataset:
    """Functional groups of one frame: where it is, and its place in the stack."""
    content = _dataset(
        StackID="1",
        InStackPositionNumber=rank,
        DimensionIndexValues=[1, rank],
        FrameAcquisitionNumber=1,
        FrameAcquisitionDateTime="20200101120200",
        FrameReferenceDateTime="20200101120200",
        FrameAcquisitionDuration=300000.0,
        FrameComments=f"frame {number}",
    )
    return _dataset(FrameContentSequence=[content], PlanePositionSequence=[_dataset(ImagePositionPatient=position)])
